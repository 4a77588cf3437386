{{/* Each definition prints a sentence for a combination of values that cannot work, or nothing. */}}

{{- define "rope-service.validateNames" -}}
{{- $name := include "rope-service.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
the name of the objects would be {{ $name }}, which no Service may have: set fullnameOverride, letters, digits and "-", with a letter first.
{{- end }}
{{- /* Kubernetes refuses an object that has a label twice, or selectors find other pods */}}
{{- $own := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" "rope-service/metrics" }}
{{- $values := dict "commonLabels" .Values.commonLabels "podLabels" .Values.podLabels "service.labels" .Values.service.labels }}
{{- range $kind, $metrics := .Values.metrics }}
{{- $_ := set $values (printf "metrics.%s.labels" $kind) $metrics.labels }}
{{- end }}
{{- range $path, $labels := $values }}
{{- range $label, $_ := $labels }}
{{- if has $label $own }}
{{ $path }} has {{ $label }}, which the chart sets: leave it out (nameOverride changes app.kubernetes.io/name).
{{- else if and (ne $path "commonLabels") (hasKey ($.Values.commonLabels | default dict) $label) }}
{{ $path }} and commonLabels both have {{ $label }}: set it once.
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "rope-service.validateDevice" -}}
{{- $limits := .Values.resources.limits | default dict }}
{{- $requests := .Values.resources.requests | default dict }}
{{- range $name, $value := merge (dict) $limits $requests }}
{{- if hasPrefix "nvidia.com/" $name }}
resources has {{ $name }}: set gpu.resource and device: gpu, and leave it out of resources.
{{- end }}
{{- end }}
{{- if eq .Values.device "gpu" }}
{{- if and (not .Values.gpu.resource) (not .Values.gpu.resourceClaimTemplate) }}
device is gpu, but no GPU is requested: set gpu.resource (nvidia.com/gpu, or a MIG resource) or gpu.resourceClaimTemplate.
{{- end }}
{{- if and .Values.gpu.resource .Values.gpu.resourceClaimTemplate }}
gpu.resource and gpu.resourceClaimTemplate would request two GPUs for a pod: set gpu.resource to "".
{{- end }}
{{- end }}
{{- end }}

{{- define "rope-service.validateSessions" -}}
{{- $sessions := .Values.sessions }}
{{- if $sessions.enabled }}
{{- if ne (include "rope-service.workloadKind" .) "StatefulSet" }}
sessions.enabled needs a StatefulSet, because its pods keep their names: leave workload empty.
{{- end }}
{{- if and (not .Values.keys.enabled) (not $sessions.open) }}
sessions.enabled without API keys: set keys.enabled, or sessions.open: true if all clients that reach the ports may share the sessions.
{{- end }}
{{- if and (not $sessions.signingKey.existingSecret) (lt (len $sessions.signingKey.value) 16) }}
sessions.signingKey is missing: all pods sign ids of sessions with one key. Set existingSecret, or a value of 16 characters or more.
{{- end }}
{{- $limit := (.Values.resources.limits | default dict).memory }}
{{- if and $limit (eq .Values.device "cpu") $sessions.kvBytes }}
{{- if ge (include "rope-service.bytes" $sessions.kvBytes | int64) (include "rope-service.bytes" $limit | int64) }}
sessions.kvBytes is not less than resources.limits.memory: on a CPU sessions are in that memory, beside the requests.
{{- end }}
{{- end }}
{{- if and $limit $sessions.kvHostBytes }}
{{- if ge (include "rope-service.bytes" $sessions.kvHostBytes | int64) (include "rope-service.bytes" $limit | int64) }}
sessions.kvHostBytes is not less than resources.limits.memory, which it is a part of.
{{- end }}
{{- end }}
{{- if and $sessions.router.enabled .Values.tls.enabled .Values.tls.clientCa.enabled }}
sessions.router has no certificate of a client: with tls.clientCa call the pods directly, NAME-0.NAME-headless.
{{- end }}
{{- else if $sessions.router.enabled }}
sessions.router.enabled without sessions.enabled: the router sends requests to the pods of their sessions.
{{- end }}
{{- end }}

{{- define "rope-service.validateSecrets" -}}
{{- if .Values.keys.enabled }}
{{- if and (not .Values.keys.existingSecret) (not .Values.keys.content) }}
keys.enabled without a keys file: set keys.existingSecret or keys.content. `rope-service new-key NAME` prints one.
{{- end }}
{{- else if or .Values.keys.existingSecret .Values.keys.content }}
keys has a keys file that is not used: set keys.enabled: true.
{{- end }}
{{- $tls := .Values.tls }}
{{- if $tls.enabled }}
{{- if and (not $tls.existingSecret) (not (and $tls.certificate $tls.privateKey)) }}
tls.enabled without a Secret: set tls.existingSecret, or tls.certificate and tls.privateKey.
{{- end }}
{{- if and $tls.clientCa.enabled (not $tls.existingSecret) (not $tls.clientCa.existingSecret) (not $tls.clientCa.certificate) }}
tls.clientCa.enabled without certificates of CAs: set tls.clientCa.existingSecret or tls.clientCa.certificate.
{{- end }}
{{- else }}
{{- if or $tls.existingSecret $tls.certificate $tls.privateKey }}
tls has a certificate that is not used: set tls.enabled: true.
{{- end }}
{{- if $tls.clientCa.enabled }}
tls.clientCa.enabled without TLS: set tls.enabled: true.
{{- end }}
{{- end }}
{{- range list (list "keys.existingSecret" .Values.keys.existingSecret "keys.content" .Values.keys.content) (list "tls.existingSecret" $tls.existingSecret "tls.certificate" $tls.certificate) (list "sessions.signingKey.existingSecret" .Values.sessions.signingKey.existingSecret "sessions.signingKey.value" .Values.sessions.signingKey.value) }}
{{- if and (index . 1) (index . 3) }}
{{ index . 0 }} and {{ index . 2 }} exclude each other: set one.
{{- end }}
{{- end }}
{{- end }}

{{- define "rope-service.validateProbes" -}}
{{- $probes := .Values.probes }}
{{- $tls := and .Values.tls.enabled true }}
{{- if and (eq $probes.handler "status") (not .Values.ports.status) }}
probes.handler is status, but ports.status is 0: set a port, or probes.handler: http.
{{- end }}
{{- if and (eq $probes.handler "grpc") $tls }}
probes.handler is grpc, but Kubernetes probes gRPC without TLS: use status.
{{- end }}
{{- if and $tls .Values.tls.clientCa.enabled (or (eq $probes.handler "http") (not .Values.ports.status)) }}
tls.clientCa.enabled needs ports.status and probes.handler: status, because probes have no certificate.
{{- end }}
{{- $ports := list (int64 .Values.ports.http) (int64 .Values.ports.grpc) (int64 .Values.ports.status) }}
{{- if lt (len (uniq $ports)) 3 }}
ports.http, ports.grpc and ports.status must differ.
{{- end }}
{{- $ports = list (int64 .Values.service.httpPort) (int64 .Values.service.grpcPort) (int64 .Values.ports.status) }}
{{- if lt (len (uniq $ports)) 3 }}
service.httpPort, service.grpcPort and ports.status must differ: all three are ports of the Service.
{{- end }}
{{- end }}

{{- define "rope-service.validateDrain" -}}
{{- $drain := .Values.drain }}
{{- $both := addf $drain.delaySeconds $drain.seconds }}
{{- if le (include "rope-service.gracePeriod" . | float64) (float64 $both) }}
the grace period of {{ include "rope-service.gracePeriod" . }} s is not longer than drain.delaySeconds and drain.seconds, {{ include "rope-service.text" $both }} s: Kubernetes would end requests that drain. Raise drain.gracePeriodSeconds or drain.marginSeconds.
{{- end }}
{{- end }}

{{- define "rope-service.validateSettings" -}}
{{- $own := include "rope-service.ownVariables" . | fromYaml }}
{{- range $name, $value := .Values.settings }}
{{- if hasKey $own $name }}
settings.{{ $name }} is set by the chart: set {{ get $own $name }}.
{{- end }}
{{- end }}
{{- range .Values.env }}
{{- if hasKey $own .name }}
env has {{ .name }}, which is set by the chart: set {{ get $own .name }}.
{{- else if hasKey $.Values.settings .name }}
env and settings both have {{ .name }}: set it once.
{{- end }}
{{- end }}
{{- if has (.Values.settings.ROPE_HTTP_HOST | default "") (list "127.0.0.1" "localhost" "::1") }}
settings.ROPE_HTTP_HOST is a loopback address, which neither probes nor clients reach: leave it out, or set "::" for IPv6.
{{- end }}
{{- end }}

{{- define "rope-service.validateScheduling" -}}
{{- /* a field that is set twice would silently get one of the two values */}}
{{- $fields := omit (.Values.extraPodSpec | default dict) "activeDeadlineSeconds" "dnsConfig" "dnsPolicy" "ephemeralContainers" "hostAliases" "hostIPC" "hostNetwork" "hostUsers" "hostname" "os" "overhead" "preemptionPolicy" "priority" "readinessGates" "schedulingGates" "setHostnameAsFQDN" "shareProcessNamespace" "subdomain" }}
{{- range $name, $_ := $fields }}
extraPodSpec.{{ $name }} is a field that the chart sets: use its value, such as volumes or affinity.
{{- end }}
{{- $minAvailable := .Values.podDisruptionBudget.minAvailable }}
{{- if and .Values.podDisruptionBudget.enabled (or (kindIs "float64" $minAvailable) (kindIs "int64" $minAvailable)) }}
{{- $fewest := ternary .Values.autoscaling.minReplicas .Values.replicaCount (include "rope-service.autoscaled" . | empty | not) | int }}
{{- if ge (int $minAvailable) $fewest }}
podDisruptionBudget.minAvailable is {{ int $minAvailable }} of {{ $fewest }} pods: no node could be drained.
{{- end }}
{{- end }}
{{- $budget := .Values.podDisruptionBudget }}
{{- $fixed := ternary (has (toString $budget.maxUnavailable) (list "0" "0%" "00%" "000%")) (eq (toString $minAvailable) "100%") (kindIs "invalid" $minAvailable) }}
{{- if and $budget.enabled $fixed }}
podDisruptionBudget lets no pod go: no node could be drained. Set maxUnavailable: 1.
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
ingress.enabled without ingress.hosts.
{{- end }}
{{- range $name, $route := .Values.gateway }}
{{- if and $route.enabled (not $route.parentRefs) }}
gateway.{{ $name }}.enabled without gateway.{{ $name }}.parentRefs: name a Gateway.
{{- end }}
{{- end }}
{{- end }}
