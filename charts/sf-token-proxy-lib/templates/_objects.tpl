{{/*
The pod's volumes for the sidecar: items of its volumes. Nothing is mounted by subPath, which would never change again: a rotated key
and a changed configuration reach the proxy as files, and it looks at them by itself.
*/}}
{{- define "sf-token-proxy.volumes" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- $v := $scope.values -}}
- name: sf-token-proxy-config
  configMap:
    name: {{ $scope.configMapName }}
    {{- if and $v.existingConfigMap (ne $v.existingConfigMapKey "config.yaml") }}
    items:
      - key: {{ $v.existingConfigMapKey }}
        path: config.yaml
    {{- end }}
{{- if $scope.credentials }}
- name: sf-token-proxy-credentials
  {{- toYaml $scope.credentials | nindent 2 }}
{{- end }}
{{- with $v.caBundle.configMap }}
- name: sf-token-proxy-ca
  configMap:
    name: {{ . }}
    items:
      - key: {{ $v.caBundle.key }}
        path: {{ $v.caBundle.key }}
{{- end }}
{{- range $scope.writable }}
- name: {{ .name }}
  {{- toYaml .source | nindent 2 }}
{{- end }}
{{- with $v.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The ConfigMap with the proxy's configuration; nothing with existingConfigMap. */}}
{{- define "sf-token-proxy.configMap" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- if not $scope.values.existingConfigMap -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $scope.configMapName }}
  labels:
    {{- include "sf-token-proxy.labels" . | nindent 4 }}
data:
  config.yaml: |
    {{- toYaml $scope.config | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* The Secret, only on explicit wish: what is in the values is also in the release's history, for all who may read it. */}}
{{- define "sf-token-proxy.secret" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- if $scope.values.secret.create -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ $scope.secretName }}
  labels:
    {{- include "sf-token-proxy.labels" . | nindent 4 }}
type: Opaque
stringData:
  {{- toYaml $scope.values.secret.stringData | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* Items of the pod's imagePullSecrets. */}}
{{- define "sf-token-proxy.imagePullSecrets" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- with $scope.values.imagePullSecrets -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* Annotations for the pod. */}}
{{- define "sf-token-proxy.podAnnotations" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- with $scope.values.podAnnotations -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* Further objects, as they are; a text is a template. */}}
{{- define "sf-token-proxy.extraObjects" -}}
{{- $root := . -}}
{{- if hasKey . "root" -}}{{- $root = .root -}}{{- end -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- range $scope.values.extraObjects }}
---
{{ if kindIs "string" . }}{{ tpl . $root }}{{ else }}{{ toYaml . }}{{ end }}
{{- end }}
{{- end -}}

{{/*
A PodMonitor for the pods of this release. It renders whenever it is enabled, whatever the cluster has: without the operator's
custom resources the installation says so. Prometheus finds the port of an init container by pod discovery.
*/}}
{{- define "sf-token-proxy.podMonitor" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- $root := . -}}
{{- if hasKey . "root" -}}{{- $root = .root -}}{{- end -}}
{{- $m := $scope.values.podMonitor -}}
{{- if $m.enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ $scope.fullname }}
  labels:
    {{- merge (include "sf-token-proxy.labels" . | fromYaml) ($m.labels | default dict) | toYaml | nindent 4 }}
spec:
  selector:
    {{- if $m.selector }}
    {{- toYaml $m.selector | nindent 4 }}
    {{- else }}
    matchLabels:
      app.kubernetes.io/instance: {{ $root.Release.Name }}
    {{- end }}
  podMetricsEndpoints:
    {{- include "sf-token-proxy.podMetricsEndpoint" $m | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* Takes the values of a PodMonitor. Other containers may call a port "metrics" as well: only ours is kept. */}}
{{- define "sf-token-proxy.podMetricsEndpoint" -}}
- port: metrics
  path: /metrics
  {{- with .interval }}
  interval: {{ . }}
  {{- end }}
  {{- with .scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  relabelings:
    - action: keep
      sourceLabels: [__meta_kubernetes_pod_container_name]
      regex: sf-token-proxy
    {{- with .relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
