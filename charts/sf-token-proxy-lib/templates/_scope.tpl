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
{{- include "sf-token-proxy.failWithoutAlias" . -}}
{{- end -}}
{{- if not (kindIs "map" $v) -}}
{{- include "sf-token-proxy.failWithoutAlias" . -}}
{{- end -}}
{{- $there := list -}}
{{- range $key := list "existingConfigMapKey" "secretDefaultMode" "extraVolumes" -}}
{{- if hasKey $v $key -}}{{- $there = append $there $key -}}{{- end -}}
{{- end -}}
{{- if or (not $there) (and (hasKey $root.Values "sf-token-proxy-lib") (lt (len $there) 3)) -}}
{{- include "sf-token-proxy.failWithoutAlias" . -}}
{{- end -}}
{{- if and (hasKey $v "enabled") (not $v.enabled) -}}
{{- fail "sfTokenProxy.enabled: it is false, and a template of the library is included all the same; put the includes into {{ if .Values.sfTokenProxy.enabled }} … {{ end }}" -}}
{{- end -}}
{{- include "sf-token-proxy.refuseNull" $v -}}
{{- $fullname := include "sf-token-proxy.nameOf" (dict "root" $root "values" $v) -}}
{{- $config := include "sf-token-proxy.finalConfig" $v | fromJson -}}
{{- $configMap := $v.existingConfigMap -}}
{{- if not $configMap -}}
{{- $configMap = printf "%s-config" $fullname -}}
{{- end -}}
{{- include "sf-token-proxy.refuseTooLittleMemory" (dict "values" $v "config" $config) -}}
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

{{- define "sf-token-proxy.failWithoutAlias" -}}
{{- fail "sf-token-proxy-lib: its values are looked for under sfTokenProxy, and its defaults are not there: give the dependency `alias: sfTokenProxy` in Chart.yaml, or call the template with (dict \"root\" $ \"values\" .Values.ALIAS)" -}}
{{- end -}}

{{/*
By null a default is taken out by one Helm (4) and kept by another (3.10): the container would be hardened by the one and not by the other. Each
default that is not empty, and the map that it is in.
*/}}
{{- define "sf-token-proxy.refuseNull" -}}
{{- $v := . -}}
{{- $defaults := list
      "enabled" "image" "image.repository" "image.pullPolicy" "existingConfigMapKey" "adminPort" "secretDefaultMode" "secret" "caBundle" "caBundle.key"
      "resources" "resources.requests" "resources.requests.cpu" "resources.requests.memory" "resources.limits" "resources.limits.memory"
      "startupProbe" "startupProbe.periodSeconds" "startupProbe.timeoutSeconds" "startupProbe.failureThreshold"
      "livenessProbe" "livenessProbe.periodSeconds" "livenessProbe.timeoutSeconds" "livenessProbe.failureThreshold"
      "readinessProbe" "readinessProbe.periodSeconds" "readinessProbe.timeoutSeconds" "readinessProbe.failureThreshold"
      "securityContext" "securityContext.runAsNonRoot" "securityContext.runAsUser" "securityContext.runAsGroup"
      "securityContext.allowPrivilegeEscalation" "securityContext.readOnlyRootFilesystem" "securityContext.capabilities"
      "securityContext.capabilities.drop" "securityContext.seccompProfile" "securityContext.seccompProfile.type"
      "classic" "classic.waitTimeout" "classic.shutdownDelay" "podMonitor" -}}
{{- range $path := $defaults -}}
{{- $here := $v -}}
{{- range $part := splitList "." $path -}}
{{- if kindIs "map" $here -}}{{- /* Not "", by which a whole map is left out. */ -}}
{{- $here = index $here $part -}}
{{- if kindIs "invalid" $here -}}
{{- fail (printf "sfTokenProxy.%s: null is refused, because not every Helm takes a default out by it; write a value, or \"\" where one may be left out" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Bodies that are kept for a repeat are in the container's memory: with all of them there, and the rest of the program, it has to fit into the limit.
32MiB: about 14 at work, and one for each body that stands still on its way. Nothing is said of a limit that is left out, nor of a file that is not here.
*/}}
{{- define "sf-token-proxy.refuseTooLittleMemory" -}}
{{- $limit := index .values.resources.limits "memory" -}}
{{- if not (kindIs "string" $limit) -}}
{{- $limit = printf "%.0f" (float64 $limit) -}}
{{- end -}}
{{- $total := dig "replay" "total" "64MiB" .config -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- if and .config (regexMatch "^[0-9]+(\\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$" $limit) (regexMatch "^ *[0-9]+(B|kB|KB|MB|GB|KiB|MiB|GiB) *$" (toString $total)) -}}
{{- $allowed := mulf (regexFind "^[0-9.]+" $limit | float64) (index $units (regexFind "[A-Za-z]*$" $limit)) -}}
{{- $unit := regexFind "[A-Za-z]+" $total | trimSuffix "B" | replace "K" "k" | replace "ki" "Ki" -}}
{{- $kept := mulf (regexFind "[0-9]+" $total | float64) (index $units $unit) -}}
{{- if gt (addf $kept 33554432) $allowed -}}
{{- fail (printf "sfTokenProxy.resources.limits.memory: %s is less than sfTokenProxy.config.replay.total (%s) and 32MiB for the rest; raise the one or lower the other" $limit $total) -}}
{{- end -}}
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
{{- if and $v.existingConfigMap $v.quitEndpoint -}}
{{- fail "sfTokenProxy.quitEndpoint: it is a setting of the file, which is in sfTokenProxy.existingConfigMap: write admin.quit_endpoint: true there" -}}
{{- end -}}
{{- $config := include "sf-token-proxy.withoutNull" ($v.config | default dict) | fromJson -}}
{{- if $v.config -}}
{{- include "sf-token-proxy.refuseWrongKinds" $config -}}
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
{{- range $one := include "sf-token-proxy.addresses" (dict "values" $v "config" $config) | fromJsonArray -}}
{{- if hasSuffix (printf ":%d" (int $v.adminPort)) $one -}}
{{- fail (printf "sfTokenProxy.config.listeners: %q is the port of sfTokenProxy.adminPort%s" $one (empty $config.listeners | ternary ", and of the listener that is there when none is written; choose another for one of them" "")) -}}
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

{{/*
Where apps call, as a JSON list, the first listener's first. Without listeners there is one on localhost:8080; SFPROXY_LISTEN is the first one's, whatever the file says.
*/}}
{{- define "sf-token-proxy.addresses" -}}
{{- $found := list -}}
{{- range $i, $listener := .config.listeners | default (list dict) -}}
{{- $address := $listener.address | default "localhost:8080" -}}
{{- if eq $i 0 -}}
{{- range $env := $.values.extraEnv -}}
{{- if and (eq $env.name "SFPROXY_LISTEN") $env.value -}}
{{- $address = splitList "," (nospace $env.value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $found = concat $found (kindIs "slice" $address | ternary $address (list $address)) -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{/* As JSON, without entries that are null: by null a default of the values is taken back, and not every Helm takes it out then. Of a map, or of a list. */}}
{{- define "sf-token-proxy.withoutNull" -}}
{{- if kindIs "map" . -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- $_ := set $kept $key (include "sf-token-proxy.withoutNull" $value | fromJson) -}}
{{- else if kindIs "slice" $value -}}
{{- $_ := set $kept $key (include "sf-token-proxy.withoutNull" $value | fromJsonArray) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $kept $key $value -}}
{{- end -}}
{{- end -}}
{{- $kept | toJson -}}
{{- else -}}
{{- $kept := list -}}
{{- range $value := . -}}
{{- if kindIs "map" $value -}}
{{- $kept = append $kept (include "sf-token-proxy.withoutNull" $value | fromJson) -}}
{{- else -}}
{{- $kept = append $kept $value -}}
{{- end -}}
{{- end -}}
{{- $kept | toJson -}}
{{- end -}}
{{- end -}}

{{/*
Of the configuration only what these templates look at themselves; the program checks all of it when it starts, or by `sf-token-proxy check`.
*/}}
{{- define "sf-token-proxy.refuseWrongKinds" -}}
{{- range $part := list "admin" "upstream" "shutdown" "store" "replay" -}}
{{- if and (hasKey $ $part) (not (kindIs "map" (index $ $part))) -}}
{{- fail (printf "sfTokenProxy.config.%s: expected settings, as in config/full.yaml" $part) -}}
{{- end -}}
{{- end -}}
{{- $store := .store | default dict -}}
{{- if and (hasKey $store "file") (not (kindIs "map" $store.file)) -}}
{{- fail "sfTokenProxy.config.store.file: expected settings, as in config/full.yaml" -}}
{{- end -}}
{{- $texts := dict -}}
{{- with $store.file -}}{{- if hasKey . "directory" -}}{{- $_ := set $texts "store.file.directory" (list .directory) -}}{{- end -}}{{- end -}}
{{- $replay := .replay | default dict -}}
{{- if hasKey $replay "total" -}}{{- $_ := set $texts "replay.total" (list $replay.total) -}}{{- end -}}
{{- $admin := .admin | default dict -}}
{{- if hasKey $admin "address" -}}{{- $_ := set $texts "admin.address" (kindIs "slice" $admin.address | ternary $admin.address (list $admin.address)) -}}{{- end -}}
{{- if and (hasKey . "listeners") (not (kindIs "slice" .listeners)) -}}
{{- fail "sfTokenProxy.config.listeners: expected a list, as in config/full.yaml" -}}
{{- end -}}
{{- range $i, $listener := .listeners -}}
{{- if not (kindIs "map" $listener) -}}
{{- fail (printf "sfTokenProxy.config.listeners[%d]: expected settings, such as {address: \"localhost:8080\"}" $i) -}}
{{- end -}}
{{- if hasKey $listener "address" -}}
{{- $_ := set $texts (printf "listeners[%d].address" $i) (kindIs "slice" $listener.address | ternary $listener.address (list $listener.address)) -}}
{{- end -}}
{{- range $part := list "tls" "users" -}}
{{- if and (hasKey $listener $part) (not (kindIs "map" (index $listener $part))) -}}
{{- fail (printf "sfTokenProxy.config.listeners[%d].%s: expected settings, as in config/full.yaml" $i $part) -}}
{{- end -}}
{{- end -}}
{{- $tls := $listener.tls | default dict -}}
{{- if hasKey $tls "generate_in" -}}{{- $_ := set $texts (printf "listeners[%d].tls.generate_in" $i) (list $tls.generate_in) -}}{{- end -}}
{{- end -}}
{{- range $place, $values := $texts -}}
{{- range $value := $values -}}
{{- if not (kindIs "string" $value) -}}
{{- fail (printf "sfTokenProxy.config.%s: expected a text, not %v; put it in quotes, with all that belongs to it (a port alone is no address)" $place $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
A ConfigMap and the release's own Secret are no places for secrets: each has to be a reference, file:/PATH, env:NAME, {file: /PATH} or {env: NAME}, on one line. The
message has the place, never the value. Two of the names are those of grants as well, which are maps below grant and are gone into.
*/}}
{{- define "sf-token-proxy.refuseInlineSecrets" -}}
{{- $at := .at -}}
{{- $secrets := list "client_secret" "private_key" "password" "security_token" "refresh_token" "access_token" "subject_token" "key" "previous_key" -}}
{{- if kindIs "map" .value -}}
{{- range $key, $value := .value -}}
{{- $here := printf "%s.%s" $at $key -}}
{{- $isGrant := and (hasSuffix ".grant" $at) (has $key (list "password" "refresh_token")) (kindIs "map" $value) -}}
{{- if and (has $key $secrets) (not $isGrant) -}}
{{- $reference := $value -}}
{{- if kindIs "map" $value -}}
{{- range $kind := list "file" "env" -}}
{{- if and (eq (keys $value | join ",") $kind) (kindIs "string" (index $value $kind)) -}}
{{- $reference = printf "%s:%s" $kind (index $value $kind) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not (and (kindIs "string" $reference) (regexMatch "^(file: */.+|env: *[A-Za-z_][A-Za-z0-9_]* *)$" $reference)) -}}
{{- fail (printf "%s: a secret does not belong into the values; put it into a Secret and write where it is: file:/var/run/secrets/sf-token-proxy/NAME" $here) -}}
{{- end -}}
{{- else -}}
{{- include "sf-token-proxy.refuseInlineSecrets" (dict "at" $here "value" $value) -}}
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

{{/*
Folders that the configuration makes the proxy write to: the root filesystem is read-only. As a JSON list of {name, mountPath, source}. A certificate
that is made below the store's folder is kept in the store's volume.
*/}}
{{- define "sf-token-proxy.writable" -}}
{{- $found := list -}}
{{- $store := dig "store" "file" "directory" "" .config -}}
{{- if $store -}}
{{- $store = include "sf-token-proxy.folder" (dict "path" $store "at" "store.file.directory") -}}
{{- $found = append $found (dict "name" "sf-token-proxy-store" "mountPath" $store "at" "store.file.directory" "source" (.values.storeVolume | default (dict "emptyDir" dict))) -}}
{{- end -}}
{{- $parents := list -}}
{{- $places := dict -}}
{{- range $i, $listener := .config.listeners -}}
{{- with dig "tls" "generate_in" "" $listener -}}
{{- $at := printf "listeners[%d].tls.generate_in" $i -}}
{{- $parent := include "sf-token-proxy.folder" (dict "path" . "at" $at "above" true) -}}
{{- if not (and $store (or (eq $parent $store) (hasPrefix (printf "%s/" $store) $parent))) -}}
{{- $parents = append $parents $parent -}}
{{- $_ := set $places $parent $at -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $parents = uniq $parents -}}
{{- if gt (len $parents) 1 -}}
{{- fail (printf "sfTokenProxy.config.listeners: tls.generate_in of all listeners has to be below one folder, not %s" (join " and " $parents)) -}}
{{- end -}}
{{- range $parents -}}
{{- $found = prepend $found (dict "name" "sf-token-proxy-tls" "mountPath" . "at" (index $places .) "source" (dict "emptyDir" dict)) -}}
{{- end -}}
{{- range $mount := .values.extraVolumeMounts -}}
{{- range $found -}}
{{- if eq (clean .mountPath) (clean ($mount.mountPath | default "/" | toString)) -}}
{{- fail (printf "sfTokenProxy.extraVolumeMounts: %s is mounted already, for sfTokenProxy.config.%s; name the volume's source in sfTokenProxy.storeVolume" .mountPath .at) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{/*
The folder that a volume is mounted on, or with "above" the one above it: the program makes its folder itself, with the mode that it wants. Fails when nothing
can be mounted there. /var/run is /run in the image, as nearly everywhere.
*/}}
{{- define "sf-token-proxy.folder" -}}
{{- $at := .at -}}
{{- if not (hasPrefix "/" .path) -}}
{{- fail (printf "sfTokenProxy.config.%s: %s is not absolute; name one like /var/lib/sf-token-proxy" $at .path) -}}
{{- end -}}
{{- $folder := clean .path -}}
{{- if .above -}}
{{- $folder = dir $folder -}}
{{- end -}}
{{- $real := regexReplaceAll "^/run(/|$)" $folder "/var/run$1" -}}
{{- range list "/etc/sf-token-proxy" "/etc/sf-token-proxy-ca" "/var/run/secrets/sf-token-proxy" -}}
{{- if or (eq $real .) (hasPrefix (printf "%s/" .) $real) -}}
{{- fail (printf "sfTokenProxy.config.%s: %s is mounted already, and read-only; name one like /var/lib/sf-token-proxy" $at .) -}}
{{- end -}}
{{- end -}}
{{- if has $real (list "/" "/etc" "/var" "/var/run" "/var/run/secrets" "/usr" "/tmp" "/proc" "/dev" "/sys") -}}
{{- fail (printf "sfTokenProxy.config.%s: a volume would be mounted on %s, which is the system's; name a folder of your own, like /var/lib/sf-token-proxy%s" $at $folder (hasKey . "above" | ternary "-tls/main" "")) -}}
{{- end -}}
{{- $folder -}}
{{- end -}}

{{/*
Where the app finds the org: http://localhost:PORT of the first listener. Of a file in existingConfigMap nothing is known: http://localhost:8080.
*/}}
{{- define "sf-token-proxy.url" -}}
{{- $scope := include "sf-token-proxy.scope" . | fromJson -}}
{{- $first := first ($scope.config.listeners | default (list dict)) -}}
{{- $address := include "sf-token-proxy.addresses" $scope | fromJsonArray | first -}}
{{- printf "%s://localhost:%s" (hasKey $first "tls" | ternary "https" "http") (regexFind "[0-9]+$" $address) -}}
{{- end -}}
