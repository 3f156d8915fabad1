{{- define "sf-token-proxy.chart.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- include "sf-token-proxy.fit" (list 50 .Values.fullnameOverride) -}}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- include "sf-token-proxy.fit" (list 50 (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name))) -}}
{{- end -}}
{{- end -}}

{{/*
Labels of one component's objects; what is in the values comes after the standard ones, which it cannot replace.
Takes (dict "root" $ "component" NAME "labels" MAP).
*/}}
{{- define "sf-token-proxy.chart.labels" -}}
{{- $standard := dict
      "app.kubernetes.io/name" (.root.Values.nameOverride | default .root.Chart.Name)
      "app.kubernetes.io/instance" .root.Release.Name
      "app.kubernetes.io/version" .root.Chart.AppVersion
      "app.kubernetes.io/component" .component
      "app.kubernetes.io/managed-by" .root.Release.Service
      "helm.sh/chart" (include "sf-token-proxy.cut" (list 63 (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_"))) -}}
{{- merge $standard .labels .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{/* The metadata of one component's object. Takes the same and "values", which has labels, annotations and maybe namespace. */}}
{{- define "sf-token-proxy.chart.metadata" -}}
name: {{ include "sf-token-proxy.chart.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}
{{- if not .cluster }}
namespace: {{ .values.namespace | default .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "sf-token-proxy.chart.labels" (dict "root" .root "component" .component "labels" (.values.labels | default dict)) | nindent 2 }}
{{- with merge (dict) (.values.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A value as an expression of CEL. Its texts, numbers and booleans are written as those of JSON. */}}
{{- define "sf-token-proxy.cel" -}}
{{- if kindIs "map" . -}}
{{- $entries := list -}}
{{- range $key, $value := . -}}
{{- $entries = append $entries (printf "%s: dyn(%s)" (toJson $key) (include "sf-token-proxy.cel" $value)) -}}
{{- end -}}
{{- printf "{%s}" (join ", " $entries) -}}
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . -}}
{{- $items = append $items (printf "dyn(%s)" (include "sf-token-proxy.cel" .)) -}}
{{- end -}}
{{- printf "[%s]" (join ", " $items) -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}
