"""A real Kubernetes on one Linux machine, without Docker: `python -m dev.cluster --help`.

Every part is an ordinary Go program built from a pinned module (dev/components) and run as a host process:

    api            etcd, kube-apiserver                      any number at once, no root needed
    control-plane  + kube-controller-manager, kube-scheduler any number at once, no root needed
    full           + containerd, kubelet, CNI, kube-proxy, CoreDNS    one per machine, root needed

Only the standard library is used, so that any Python 3.11 can run it.
"""
