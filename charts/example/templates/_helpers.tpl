{{/* RELEASE-example, or RELEASE alone where it says so already; but not in an umbrella chart, whose release may be called after two of its charts. */}}
{{- define "example.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- include "sf-token-proxy.fit" (list 40 .Values.fullnameOverride) -}}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- include "sf-token-proxy.fit" (list 40 (and .Chart.IsRoot (contains $name .Release.Name) | ternary .Release.Name (printf "%s-%s" .Release.Name $name))) -}}
{{- end -}}
{{- end -}}

{{/* Without the version: a Deployment's selector never changes. Takes (dict "root" $ "component" NAME). */}}
{{- define "example.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Values.nameOverride | default .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "example.labels" -}}
{{- $standard := dict
      "app.kubernetes.io/version" (include "sf-token-proxy.cut" (list 63 (.root.Values.app.image.tag | default .root.Chart.AppVersion)))
      "app.kubernetes.io/managed-by" .root.Release.Service
      "helm.sh/chart" (include "sf-token-proxy.cut" (list 63 (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_"))) -}}
{{- merge (include "example.selectorLabels" . | fromYaml) $standard .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{/* The app itself: one item of containers. Nothing in it knows a credential. Takes (dict "root" $ "command" LIST "args" LIST). */}}
{{- define "example.app" -}}
{{- $app := .root.Values.app -}}
- name: app
  image: {{ include "sf-token-proxy.image" $app.image }}
  imagePullPolicy: {{ $app.image.pullPolicy }}
  {{- with .command }}
  command: {{ toJson . }}
  {{- end }}
  {{- with .args }}
  args: {{ toJson . }}
  {{- end }}
  env:
    - name: SALESFORCE_URL
      value: {{ include "sf-token-proxy.url" .root }}
    {{- with $app.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  resources:
    {{- toYaml $app.resources | nindent 4 }}
  securityContext:
    {{- toYaml $app.securityContext | nindent 4 }}
  {{- with $app.extraVolumeMounts }}
  volumeMounts:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* What the three pods have in common, apart from the lines that are about the proxy. */}}
{{- define "example.podSettings" -}}
# The proxy needs no token of the cluster. If your app does, leave this out.
automountServiceAccountToken: {{ .Values.automountServiceAccountToken }}
{{- with concat .Values.imagePullSecrets (include "sf-token-proxy.imagePullSecrets" . | fromYamlArray) }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The pod's annotations. kubectl logs and exec mean the app when no container is named. */}}
{{- define "example.podAnnotations" -}}
{{- $own := dict "kubectl.kubernetes.io/default-container" "app" -}}
{{- merge (deepCopy .Values.podAnnotations) (include "sf-token-proxy.podAnnotations" . | fromYaml) $own | toYaml -}}
{{- end -}}

{{/*
What helm test asks. A call to the org by the first listener that takes one without more ado: it succeeds with a token only. /services/data/vNN.0/ wants a session
and no permission beside; …/limits would want View Setup. Where all listeners have https, which the question does not speak, or want a user: /readyz.
*/}}
{{- define "example.question" -}}
{{- $url := "" -}}
{{- range $listener := (.Values.sfTokenProxy.config | default dict).listeners | default (list dict) -}}
{{- $users := $listener.users | default dict -}}
{{- if not (or $url $listener.tls $users.required) -}}
{{- if $listener.address -}}
{{- $address := $listener.address -}}
{{- if kindIs "slice" $address -}}{{- $address = first $address -}}{{- end -}}
{{- $url = printf "http://localhost:%s/services/data/v60.0/" (regexFind "[0-9]+$" $address) -}}
{{- else -}}
{{- $url = printf "%s/services/data/v60.0/" (include "sf-token-proxy.url" $) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $url -}}
{{- list "healthcheck" "--url" $url "--timeout" "15s" | toJson -}}
{{- else -}}
{{- list "healthcheck" "--ready" "--url" (printf "http://localhost:%d" (int .Values.sfTokenProxy.adminPort)) | toJson -}}
{{- end -}}
{{- end -}}
