{{/*
The pod's volumes for the sidecar: items of its volumes. Nothing is mounted by subPath, which would never change again: a rotated key
and a changed configuration reach the proxy as files, and it looks at them by itself.
*/}}
{{- define "sf-token-proxy.volumes" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- $v := $scope.values -}}
{{- include "sf-token-proxy.refuseUnasked" (dict "context" . "values" $v) -}}
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

{{/*
All objects that stand beside the pod; each begins with a line of its own, so that a file may have several of these includes. The ConfigMap, but for
existingConfigMap; the Secret, only on explicit wish: what is in the values is also in the release's history, for all who may read it; the PodMonitor, if enabled; and
extraObjects, as they are, of which a text is a template.
*/}}
{{- define "sf-token-proxy.objects" -}}
{{- $root := . -}}
{{- if hasKey . "root" -}}{{- $root = .root -}}{{- end -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- $v := $scope.values -}}
{{- $labels := include "sf-token-proxy.labels" . | fromYaml -}}
{{- if or (not $v.existingConfigMap) $v.secret.create $v.podMonitor.enabled -}}
{{- include "sf-token-proxy.refuseSameName" (dict "root" $root "scope" $scope) -}}
{{- end -}}
{{- if not $v.existingConfigMap }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $scope.configMapName }}
  labels:
    {{- toYaml $labels | nindent 4 }}
data:
  config.yaml: |
    {{- toYaml $scope.config | nindent 4 }}
{{- end }}
{{- if $v.secret.create }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ $scope.secretName }}
  labels:
    {{- toYaml $labels | nindent 4 }}
type: Opaque
stringData:
  {{- toYaml $v.secret.stringData | nindent 2 }}
{{- end }}
{{- if $v.podMonitor.enabled }}
{{- /* It renders whatever the cluster has: without the operator's custom resources the installation says so. Prometheus finds the port of an init container by
pod discovery. */}}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ $scope.fullname }}
  labels:
    {{- merge (deepCopy $labels) ($v.podMonitor.labels | default dict) | toYaml | nindent 4 }}
spec:
  selector:
    {{- if $v.podMonitor.selector }}
    {{- toYaml $v.podMonitor.selector | nindent 4 }}
    {{- else }}
    matchLabels:
      app.kubernetes.io/name: {{ include "sf-token-proxy.cut" (list 63 ($root.Values.nameOverride | default $root.Chart.Name)) | quote }}
      app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
    {{- end }}
  podMetricsEndpoints:
    {{- include "sf-token-proxy.podMetricsEndpoint" $v.podMonitor | nindent 4 }}
{{- end }}
{{- range $v.extraObjects }}
---
{{ if kindIs "string" . }}{{ tpl . $root }}{{ else }}{{ toYaml . }}{{ end }}
{{- end }}
{{- end -}}

{{/*
Two of one name in a release: one of them would be lost, and its app call the other's org. Names differ by default, but not for two dependencies on the library in
one chart, nor for charts of one name within different subcharts. The same once more is no clash: a checksum may be made of it. .Release is the only thing that
all charts of a release share.
*/}}
{{- define "sf-token-proxy.refuseSameName" -}}
{{- $taken := index .root.Release "sfTokenProxyNames" | default dict -}}
{{- $name := .scope.fullname -}}
{{- $whose := printf "%s %s" .root.Template.BasePath (.scope.values | toJson | sha256sum) -}}
{{- if ne $whose (index $taken $name | default $whose) -}}
{{- fail (printf "sfTokenProxy.nameOverride: in this release %s and %s both name their objects %s; give one of them another nameOverride or fullnameOverride" (index $taken $name | splitList " " | first | dir) (dir .root.Template.BasePath) $name) -}}
{{- end -}}
{{- $_ := set .root.Release "sfTokenProxyNames" (set $taken $name $whose) -}}
{{- end -}}

{{/* Items of the pod's imagePullSecrets. */}}
{{- define "sf-token-proxy.imagePullSecrets" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- include "sf-token-proxy.wasAsked" (dict "context" . "for" "imagePullSecrets") -}}
{{- with $scope.values.imagePullSecrets -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* Annotations for the pod. */}}
{{- define "sf-token-proxy.podAnnotations" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- include "sf-token-proxy.wasAsked" (dict "context" . "for" "podAnnotations") -}}
{{- with $scope.values.podAnnotations -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/*
That a template takes values that are for the pod: remembered for its file, and looked at where the pod's volumes are, which come last.
Takes (dict "context" CONTEXT "for" NAME).
*/}}
{{- define "sf-token-proxy.wasAsked" -}}
{{- $root := .context -}}
{{- if hasKey .context "root" -}}{{- $root = .context.root -}}{{- end -}}
{{- $_ := set $root.Release (printf "sfTokenProxyAsked %s %s" .for $root.Template.Name) true -}}
{{- end -}}

{{- define "sf-token-proxy.refuseUnasked" -}}
{{- $root := .context -}}
{{- if hasKey .context "root" -}}{{- $root = .context.root -}}{{- end -}}
{{- range $for := list "imagePullSecrets" "podAnnotations" -}}
{{- if and (index $.values $for) (not (hasKey $root.Release (printf "sfTokenProxyAsked %s %s" $for $root.Template.Name))) -}}
{{- fail (printf "sfTokenProxy.%s: nothing would come of it: %s has no {{ include \"sf-token-proxy.%s\" . }}, or has it below sf-token-proxy.volumes" $for $root.Template.Name $for) -}}
{{- end -}}
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
