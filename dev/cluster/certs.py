"""Certificates of one instance, issued by a certificate authority of its own (openssl)."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dev.cluster.report import ClusterError

_DAYS = "365"
_EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
# The machine's own openssl.cnf would make every certificate an authority.
_CONFIG = "[req]\ndistinguished_name = subject\n[subject]\n"


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class SigningKeys:
    """A public key and its private key, PEM files."""

    public: Path
    private: Path


class Authority:
    """Issues the certificates of one instance into one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, mode=0o700)
        (folder / "openssl.cnf").write_text(_CONFIG)
        self.ca = self._pair("ca")
        authority = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,digitalSignature")
        self._request(self.ca, "/CN=kubetune-local-ca", "-x509", *_extensions(authority))

    def client(self, name: str, user: str, group: str | None = None) -> KeyPair:
        """A client certificate for a Kubernetes user and group."""
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        return self._issue(name, subject, "extendedKeyUsage=clientAuth")

    def server(self, name: str, addresses: list[str], names: list[str]) -> KeyPair:
        """A server certificate for IP addresses and DNS names."""
        alternatives = ",".join([*(f"IP:{a}" for a in addresses), *(f"DNS:{n}" for n in names)])
        return self._issue(
            name, f"/CN={name}", "extendedKeyUsage=serverAuth", f"subjectAltName={alternatives}"
        )

    def signing_keys(self, name: str) -> SigningKeys:
        """Keys without a certificate, for service account tokens."""
        keys = SigningKeys(self.folder / f"{name}.pub", self.folder / f"{name}.key")
        curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        _openssl("genpkey", *curve, "-out", str(keys.private))
        _openssl("pkey", "-in", str(keys.private), "-pubout", "-out", str(keys.public))
        return keys

    def _issue(self, name: str, subject: str, *extensions: str) -> KeyPair:
        pair = self._pair(name)
        issuer = ("-CA", str(self.ca.certificate), "-CAkey", str(self.ca.key))
        self._request(pair, subject, "-x509", *issuer, *_extensions(extensions))
        return pair

    def _pair(self, name: str) -> KeyPair:
        return KeyPair(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def _request(self, pair: KeyPair, subject: str, *options: str) -> None:
        out = ("-keyout", str(pair.key), "-out", str(pair.certificate), "-days", _DAYS)
        config = ("-config", str(self.folder / "openssl.cnf"))
        _openssl("req", "-new", *config, *_EC_KEY, "-subj", subject, *out, *options)


def _extensions(values: Iterable[str]) -> list[str]:
    return [word for value in values for word in ("-addext", value)]


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"openssl {words[0]} failed: {done.stderr.strip()}")
