{{- define "kubetune.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end -}}

{{- define "kubetune.fullname" -}}
{{- $name := include "kubetune.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of what has no namespace: that of a release that watches single namespaces may be used in another, too. */}}
{{- define "kubetune.clusterName" -}}
{{- if .Values.watchNamespaces -}}
{{- printf "%s-%s" .Release.Namespace (include "kubetune.fullname" .) -}}
{{- else -}}
{{- include "kubetune.fullname" . -}}
{{- end -}}
{{- end -}}

{{- define "kubetune.selector" -}}
app.kubernetes.io/name: {{ include "kubetune.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "kubetune.labels" -}}
{{ include "kubetune.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The reference of an image: (list image chart) */}}
{{- define "kubetune.image" -}}
{{- $image := index . 0 -}}
{{- $chart := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Secrets for the operator's image: those of a parent chart may be given by their names alone. */}}
{{- define "kubetune.imagePullSecrets" -}}
{{- $found := .Values.imagePullSecrets -}}
{{- range dig "imagePullSecrets" list (.Values.global | default dict) -}}
{{- $found = append $found (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* User of all pods; empty: none is set. */}}
{{- define "kubetune.user" -}}
{{- if ne (toString .Values.runAsUser) "auto" -}}
{{- if .Values.runAsUser -}}{{ int64 .Values.runAsUser }}{{- end -}}
{{- else if not (.Capabilities.APIVersions.Has "security.openshift.io/v1") -}}
65532
{{- end -}}
{{- end -}}

{{/* Variables by which programs find the proxies: there are two spellings. What lies inside the cluster is asked directly,
     the API server and the progress receiver above all. */}}
{{- define "kubetune.proxy" -}}
{{- $found := list -}}
{{- if or .Values.proxy.http .Values.proxy.https -}}
{{- $inside := list .Values.proxy.noProxy "localhost" "127.0.0.1" "::1" ".svc" ".cluster.local" "kubernetes.default" "$(KUBERNETES_SERVICE_HOST)" -}}
{{- $direct := join "," (compact $inside) -}}
{{- range $name, $value := dict "HTTP_PROXY" .Values.proxy.http "HTTPS_PROXY" .Values.proxy.https "NO_PROXY" $direct -}}
{{- if $value -}}
{{- $found = append $found (dict "name" $name "value" $value) -}}
{{- $found = append $found (dict "name" (lower $name) "value" $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* What the operator is told of all pods that it makes: kubetune.api.defaults.PodDefaults. */}}
{{- define "kubetune.podDefaults" -}}
{{- $user := include "kubetune.user" . -}}
{{- $trainerEnv := concat (include "kubetune.proxy" . | fromJsonArray) .Values.trainer.env | default list -}}
{{- $found := dict
  "runAsUser" (empty $user | ternary nil (int64 $user))
  "nodeSelector" .Values.pods.nodeSelector
  "tolerations" .Values.pods.tolerations
  "imagePullSecrets" .Values.pods.imagePullSecrets
  "trainer" (dict "resources" .Values.trainer.resources "env" $trainerEnv)
  "engine" (dict "resources" .Values.engine.resources "env" .Values.engine.env)
  "gateway" (dict "resources" .Values.gateway.resources "env" .Values.gateway.env)
  "reclaim" (dict "resources" .Values.reclaim.resources "env" .Values.reclaim.env)
-}}
{{- toJson $found -}}
{{- end -}}
