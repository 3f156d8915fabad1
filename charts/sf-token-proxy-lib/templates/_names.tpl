{{/*
RELEASE-CHART-sf-token-proxy, where CHART is the name or the alias of the chart that includes the library; or what nameOverride and fullnameOverride make of
it. As is usual, a release that is called after the chart does not say it twice; but only at the root, because two subcharts may both be in the release's name.
Room is left for the suffixes.
*/}}
{{- define "sf-token-proxy.nameOf" -}}
{{- $parts := list .root.Release.Name (.values.nameOverride | default "sf-token-proxy") -}}
{{- if not (and .root.Chart.IsRoot (contains .root.Chart.Name .root.Release.Name)) -}}
{{- $parts = list (first $parts) .root.Chart.Name (last $parts) -}}
{{- end -}}
{{- include "sf-token-proxy.fit" (list 50 (.values.fullnameOverride | default (join "-" $parts))) -}}
{{- end -}}

{{/*
The second as the name of an object, not longer than the first says. What had to be changed for that (an alias may have capital letters) ends with a hash:
names that differ stay different.
*/}}
{{- define "sf-token-proxy.fit" -}}
{{- $most := int (first .) -}}
{{- $wanted := last . -}}
{{- $name := include "sf-token-proxy.cut" (list $most ($wanted | lower | replace "_" "-")) -}}
{{- if ne $name $wanted -}}
{{- $name = printf "%s-%s" (include "sf-token-proxy.cut" (list (sub $most 9) $name)) (sha256sum $wanted | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* The second, not longer than the first says, as a name or a label may be: with a letter or a digit at both ends. */}}
{{- define "sf-token-proxy.cut" -}}
{{- regexReplaceAll "^[^A-Za-z0-9]+|[^A-Za-z0-9]+$" (trunc (int (first .)) (last .)) "" -}}
{{- end -}}

{{/* The version of the program that these templates are for; the default tag. */}}
{{- define "sf-token-proxy.appVersion" -}}0.1.0{{- end -}}

{{/* REGISTRY/REPOSITORY:TAG, or …@DIGEST. Takes the image's values. */}}
{{- define "sf-token-proxy.image" -}}
{{- $name := .repository -}}
{{- if .registry -}}
{{- $name = printf "%s/%s" .registry .repository -}}
{{- end -}}
{{- if .digest -}}
{{- printf "%s@%s" $name .digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.tag | default (include "sf-token-proxy.appVersion" .)) -}}
{{- end -}}
{{- end -}}

{{/* Of the objects that the library makes. Takes what sf-token-proxy.scope takes. */}}
{{- define "sf-token-proxy.labels" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- $root := . -}}
{{- if hasKey . "root" -}}{{- $root = .root -}}{{- end -}}
{{- $labels := dict
      "app.kubernetes.io/name" "sf-token-proxy"
      "app.kubernetes.io/instance" $root.Release.Name
      "app.kubernetes.io/version" (include "sf-token-proxy.appVersion" .)
      "app.kubernetes.io/component" "sidecar"
      "app.kubernetes.io/part-of" $root.Chart.Name
      "app.kubernetes.io/managed-by" $root.Release.Service
      "helm.sh/chart" (include "sf-token-proxy.cut" (list 63 (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_"))) -}}
{{- merge $labels ($scope.values.commonLabels | default dict) | toYaml -}}
{{- end -}}
