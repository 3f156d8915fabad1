{{/*
The sidecar: one item of a pod's initContainers. With restartPolicy Always the kubelet starts it before the app's containers, waits for its
startupProbe, and stops it after them. No preStop hook: hooks of all containers run at once, and it would drain while the app still
calls. No readinessProbe: trouble of the org must not take the app out of its Service.
*/}}
{{- define "sf-token-proxy.container" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- if $scope.values.classic.enabled -}}
{{- fail "sfTokenProxy.classic.enabled: with it, put sf-token-proxy.classicContainer into containers in place of sf-token-proxy.container in initContainers" -}}
{{- end -}}
{{- include "sf-token-proxy.containerOf" (dict "scope" $scope "classic" false) -}}
{{- end -}}

{{/*
For clusters without native sidecars: the first item of a pod's containers. The next container starts when the postStart hook has ended, which
waits until /startupz passes: for the first token, or through a passing fault of the login host for admin.startup_patience. A Job does not end by itself with
it; see quitEndpoint.
*/}}
{{- define "sf-token-proxy.classicContainer" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- if not $scope.values.classic.enabled -}}
{{- fail "sfTokenProxy.classic.enabled: set it to true, sf-token-proxy.classicContainer needs the configuration that goes with it" -}}
{{- end -}}
{{- include "sf-token-proxy.containerOf" (dict "scope" $scope "classic" true) -}}
{{- end -}}

{{- define "sf-token-proxy.containerOf" -}}
{{- $scope := .scope -}}
{{- $v := $scope.values -}}
{{- include "sf-token-proxy.checkEnv" $v -}}
- name: sf-token-proxy
  image: {{ include "sf-token-proxy.image" $v.image }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  {{- if not .classic }}
  restartPolicy: Always
  {{- end }}
  args: {{ concat (list "run" "--config" "/etc/sf-token-proxy/config.yaml") ($v.extraArgs | default list) | toJson }}
  {{- with $v.extraEnv }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: metrics
      containerPort: {{ int $v.adminPort }}
      protocol: TCP
  startupProbe:
    httpGet:
      path: /startupz
      port: {{ int $v.adminPort }}
    {{- toYaml $v.startupProbe | nindent 4 }}
  livenessProbe:
    httpGet:
      path: /livez
      port: {{ int $v.adminPort }}
    {{- toYaml $v.livenessProbe | nindent 4 }}
  {{- if $v.readinessProbe.enabled }}
  readinessProbe:
    httpGet:
      path: /readyz
      port: {{ int $v.adminPort }}
    {{- toYaml (omit $v.readinessProbe "enabled") | nindent 4 }}
  {{- end }}
  {{- if .classic }}
  lifecycle:
    postStart:
      exec:
        command: ["/sf-token-proxy", "wait", "--url", "http://localhost:{{ int $v.adminPort }}", "--timeout", {{ $v.classic.waitTimeout | quote }}]
  {{- end }}
  resources:
    {{- include "sf-token-proxy.withoutEmpty" $v.resources | nindent 4 }}
  securityContext:
    {{- include "sf-token-proxy.withoutEmpty" $v.securityContext | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - name: sf-token-proxy-config
      mountPath: /etc/sf-token-proxy
      readOnly: true
    {{- if $scope.credentials }}
    - name: sf-token-proxy-credentials
      mountPath: /var/run/secrets/sf-token-proxy
      readOnly: true
    {{- end }}
    {{- if $v.caBundle.configMap }}
    - name: sf-token-proxy-ca
      mountPath: /etc/sf-token-proxy-ca
      readOnly: true
    {{- end }}
    {{- range $scope.writable }}
    - name: {{ .name }}
      mountPath: {{ .mountPath }}
    {{- end }}
    {{- with $v.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/*
Entries whose value is "" or null are left out, of the maps within as well, and what is left of nothing: null does not remove a subchart's default in every Helm.
*/}}
{{- define "sf-token-proxy.withoutEmpty" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- with include "sf-token-proxy.withoutEmpty" $value | fromYaml -}}
{{- $_ := set $kept $key . -}}
{{- end -}}
{{- else if not (or (kindIs "invalid" $value) (eq (toString $value) "")) -}}
{{- $_ := set $kept $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $kept -}}
{{- end -}}

{{/* The configuration is a file, beside which the proxy takes few settings from the environment and stops at the others. */}}
{{- define "sf-token-proxy.checkEnv" -}}
{{- $beside := list "SFPROXY_LISTEN" "SFPROXY_LOG_FORMAT" "SFPROXY_LOG_LEVEL" "SFPROXY_LOG_REQUESTS" "SFPROXY_THREADS" -}}
{{- range $i, $env := .extraEnv -}}
{{- if eq $env.name "SFPROXY_ADMIN_LISTEN" -}}
{{- fail (printf "sfTokenProxy.extraEnv[%d].name: %s would move the port from under the probes; set sfTokenProxy.adminPort" $i $env.name) -}}
{{- end -}}
{{- if and (hasPrefix "SFPROXY_" $env.name) (not (has $env.name $beside)) -}}
{{- fail (printf "sfTokenProxy.extraEnv[%d].name: %s does not count beside a configuration file; set it in sfTokenProxy.config" $i $env.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
