{{/*
What every other template asks first: whose values, under which names, with which configuration. As JSON:
values, config (nothing with existingConfigMap), fullname, configMapName, secretName, credentials (a volume source), writable (folders that
the configuration writes to), proxyPort, scheme.

Takes the root context (the values are then .Values.sfTokenProxy), or (dict "root" $ "values" VALUES) for values from elsewhere.
Fails when the values contradict each other or would carry a secret into a ConfigMap; every message names the value.
*/}}
{{- define "sf-token-proxy.scope" -}}
{{- $root := . -}}
{{- $v := dict -}}
{{- if hasKey . "root" -}}
{{- $root = .root -}}
{{- $v = .values -}}
{{- else if hasKey .Values "sfTokenProxy" -}}
{{- $v = .Values.sfTokenProxy -}}
{{- else -}}
{{- fail "sf-token-proxy-lib: its values are looked for under sfTokenProxy: give the dependency `alias: sfTokenProxy` in Chart.yaml, or call the template with (dict \"root\" $ \"values\" VALUES)" -}}
{{- end -}}
{{- $fullname := include "sf-token-proxy.nameOf" (dict "release" $root.Release.Name "values" $v) -}}
{{- $config := include "sf-token-proxy.finalConfig" $v | fromJson -}}
{{- $configMap := $v.existingConfigMap -}}
{{- if not $configMap -}}
{{- $configMap = printf "%s-config" $fullname -}}
{{- end -}}
{{- $credentials := include "sf-token-proxy.credentials" (dict "values" $v "fullname" $fullname "config" $config) | fromJson -}}
{{- dict
      "values" $v
      "config" $config
      "fullname" $fullname
      "configMapName" $configMap
      "secretName" (printf "%s-credentials" $fullname)
      "credentials" $credentials
      "writable" (include "sf-token-proxy.writable" (dict "values" $v "config" $config) | fromJsonArray)
    | toJson -}}
{{- end -}}

{{/* RELEASE-sf-token-proxy, or what nameOverride and fullnameOverride make of it. Room is left for the suffixes. */}}
{{- define "sf-token-proxy.nameOf" -}}
{{- $name := .values.nameOverride | default "sf-token-proxy" -}}
{{- if .values.fullnameOverride -}}
{{- .values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .release -}}
{{- .release | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .release $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/*
The file that the proxy will read, as JSON: the user's settings, and those that follow from other values. {} with existingConfigMap.
*/}}
{{- define "sf-token-proxy.finalConfig" -}}
{{- $v := . -}}
{{- if and $v.config $v.existingConfigMap -}}
{{- fail "sfTokenProxy.config and sfTokenProxy.existingConfigMap: give one of them, not both" -}}
{{- end -}}
{{- if not (or $v.config $v.existingConfigMap) -}}
{{- fail "sfTokenProxy.config: the proxy's configuration is missing (orgs, with login_url and grant); or name a ConfigMap in sfTokenProxy.existingConfigMap" -}}
{{- end -}}
{{- $config := include "sf-token-proxy.withoutNull" ($v.config | default dict) | fromJson -}}
{{- if $v.config -}}
{{- include "sf-token-proxy.refuseInlineSecrets" (dict "at" "sfTokenProxy.config" "value" $config) -}}
{{- $admin := $config.admin | default dict -}}
{{- $wanted := printf "*:%d" (int $v.adminPort) -}}
{{- $address := $admin.address | default $wanted -}}
{{- range $one := (kindIs "slice" $address | ternary $address (list $address)) -}}
{{- if regexMatch "^(localhost|127\\.|\\[::1\\])" $one -}}
{{- fail (printf "sfTokenProxy.config.admin.address: %q is loopback, where neither the kubelet's probes nor Prometheus come; leave it out for %q" $one $wanted) -}}
{{- end -}}
{{- if not (hasSuffix (printf ":%d" (int $v.adminPort)) $one) -}}
{{- fail (printf "sfTokenProxy.config.admin.address: %q is on another port than the probes; set sfTokenProxy.adminPort alone" $one) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $admin "address" $address -}}
{{- if $v.quitEndpoint -}}
{{- $_ := set $admin "quit_endpoint" true -}}
{{- end -}}
{{- $_ := set $config "admin" $admin -}}
{{- range $listener := $config.listeners -}}
{{- range $one := (kindIs "slice" $listener.address | ternary $listener.address (list ($listener.address | default "localhost:8080"))) -}}
{{- if hasSuffix (printf ":%d" (int $v.adminPort)) $one -}}
{{- fail (printf "sfTokenProxy.config.listeners: %q is the port of sfTokenProxy.adminPort" $one) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $v.caBundle.configMap -}}
{{- $upstream := $config.upstream | default dict -}}
{{- if $upstream.ca_file -}}
{{- fail "sfTokenProxy.config.upstream.ca_file: leave it out, sfTokenProxy.caBundle sets it" -}}
{{- end -}}
{{- $_ := set $upstream "ca_file" (printf "/etc/sf-token-proxy-ca/%s" $v.caBundle.key) -}}
{{- $_ := set $config "upstream" $upstream -}}
{{- end -}}
{{- if $v.classic.enabled -}}
{{- $shutdown := $config.shutdown | default dict -}}
{{- if not (hasKey $shutdown "delay") -}}
{{- $_ := set $shutdown "delay" $v.classic.shutdownDelay -}}
{{- end -}}
{{- $_ := set $config "shutdown" $shutdown -}}
{{- end -}}
{{- if not (hasKey $config "threads") -}}
{{- $_ := set $config "threads" "auto" -}}
{{- end -}}
{{- end -}}
{{- $config | toJson -}}
{{- end -}}

{{/* As JSON, without entries that are null: by null a default of the values is taken back, and not every Helm takes it out then. */}}
{{- define "sf-token-proxy.withoutNull" -}}
{{- if kindIs "map" . -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- $_ := set $kept $key (include "sf-token-proxy.withoutNull" $value | fromJson) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $kept $key $value -}}
{{- end -}}
{{- end -}}
{{- $kept | toJson -}}
{{- end -}}
{{- end -}}

{{/*
A ConfigMap and the release's own Secret are no places for secrets: each has to be a reference. The message has the place, never the value.
The names are also those of grants (refresh_token, password): a map is gone into, unless it is {file: …} or {env: …}.
*/}}
{{- define "sf-token-proxy.refuseInlineSecrets" -}}
{{- $at := .at -}}
{{- $secrets := list "client_secret" "private_key" "password" "security_token" "refresh_token" "access_token" "subject_token" "key" "previous_key" -}}
{{- if kindIs "map" .value -}}
{{- range $key, $value := .value -}}
{{- if and (has $key $secrets) (not (kindIs "map" $value)) -}}
{{- if not (and (kindIs "string" $value) (regexMatch "^(file|env):" $value)) -}}
{{- fail (printf "%s.%s: a secret does not belong into the values; put it into a Secret and write where it is: file:/var/run/secrets/sf-token-proxy/NAME" $at $key) -}}
{{- end -}}
{{- else -}}
{{- include "sf-token-proxy.refuseInlineSecrets" (dict "at" (printf "%s.%s" $at $key) "value" $value) -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" .value -}}
{{- range $i, $value := .value -}}
{{- include "sf-token-proxy.refuseInlineSecrets" (dict "at" (printf "%s[%d]" $at $i) "value" $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The source of the volume with the secrets, as JSON; {} when there is none. */}}
{{- define "sf-token-proxy.credentials" -}}
{{- $v := .values -}}
{{- $given := list -}}
{{- if $v.existingSecret -}}{{- $given = append $given "existingSecret" -}}{{- end -}}
{{- if $v.secret.create -}}{{- $given = append $given "secret.create" -}}{{- end -}}
{{- if $v.credentialsVolume -}}{{- $given = append $given "credentialsVolume" -}}{{- end -}}
{{- if gt (len $given) 1 -}}
{{- fail (printf "sfTokenProxy.%s: give only one of them" (join " and sfTokenProxy." $given)) -}}
{{- end -}}
{{- if and $v.secret.create (not $v.secret.stringData) -}}
{{- fail "sfTokenProxy.secret.stringData: it is empty, and sfTokenProxy.secret.create is on" -}}
{{- end -}}
{{- if and (not $given) (contains "/var/run/secrets/sf-token-proxy/" (.config | toJson)) -}}
{{- fail "sfTokenProxy.existingSecret: sfTokenProxy.config refers to /var/run/secrets/sf-token-proxy/, and no Secret is named that would be there" -}}
{{- end -}}
{{- if $v.credentialsVolume -}}
{{- $v.credentialsVolume | toJson -}}
{{- else if $given -}}
{{- $name := $v.existingSecret | default (printf "%s-credentials" .fullname) -}}
{{- $secret := dict "secretName" $name "defaultMode" (int $v.secretDefaultMode) -}}
{{- if $v.secretItems -}}
{{- $_ := set $secret "items" $v.secretItems -}}
{{- end -}}
{{- dict "secret" $secret | toJson -}}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{/* Folders that the configuration makes the proxy write to: the root filesystem is read-only. As a JSON list of {name, mountPath, source}. */}}
{{- define "sf-token-proxy.writable" -}}
{{- $found := list -}}
{{- $store := dig "store" "file" "directory" "" .config -}}
{{- if $store -}}
{{- $found = append $found (dict "name" "sf-token-proxy-store" "mountPath" $store "source" .values.storeVolume) -}}
{{- end -}}
{{- $parents := list -}}
{{- range $listener := .config.listeners -}}
{{- with dig "tls" "generate_in" "" $listener -}}
{{- $parents = append $parents (dir .) -}}
{{- end -}}
{{- end -}}
{{- $parents = uniq $parents -}}
{{- if gt (len $parents) 1 -}}
{{- fail (printf "sfTokenProxy.config.listeners: tls.generate_in of all listeners has to be below one folder, not %s" (join " and " $parents)) -}}
{{- end -}}
{{- range $parents -}}
{{- if has . (list "/" "/etc" "/var" "/run" "/var/run" "/usr" "/tmp") -}}
{{- fail (printf "sfTokenProxy.config.listeners: tls.generate_in is directly in %s; a volume is mounted on the folder above it, so name one like /var/lib/sf-token-proxy-tls/main" .) -}}
{{- end -}}
{{- $found = append $found (dict "name" "sf-token-proxy-tls" "mountPath" . "source" (dict "emptyDir" dict)) -}}
{{- end -}}
{{- $found | toJson -}}
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
      "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- merge $labels $scope.values.commonLabels | toYaml -}}
{{- end -}}

{{/* Where the app finds the org: http://localhost:PORT of the first listener. */}}
{{- define "sf-token-proxy.url" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- $first := first ($scope.config.listeners | default (list dict)) -}}
{{- $address := $first.address | default "localhost:8080" -}}
{{- if kindIs "slice" $address -}}{{- $address = first $address -}}{{- end -}}
{{- printf "%s://localhost:%s" (hasKey $first "tls" | ternary "https" "http") (regexFind "[0-9]+$" $address) -}}
{{- end -}}
