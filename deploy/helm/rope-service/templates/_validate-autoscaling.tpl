{{/* Each definition prints sentences for values that contradict each other, or nothing. */}}

{{- define "rope-service.validateAutoscaling" -}}
{{- $scaling := .Values.autoscaling }}
{{- if and $scaling.hpa.enabled $scaling.keda.enabled }}
autoscaling.hpa.enabled and autoscaling.keda.enabled are both true, and two autoscalers would change the same pods: set one of them to false.
{{- end }}
{{- if include "rope-service.autoscaled" . }}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
autoscaling.minReplicas ({{ int $scaling.minReplicas }}) is above autoscaling.maxReplicas ({{ int $scaling.maxReplicas }}).
{{- end }}
{{- $own := ternary $scaling.hpa.extraMetrics $scaling.keda.extraTriggers $scaling.hpa.enabled }}
{{- if and (not $own) (not (include "rope-service.targets" . | fromYaml)) }}
autoscaling has no metric: set one of autoscaling.targets (busy, queue, memory, or kv with sessions) above 0, or turn autoscaling off.
{{- end }}
{{- end }}
{{- if and $scaling.keda.enabled (not $scaling.keda.serverAddress) }}
autoscaling.keda.serverAddress is missing: the URL of Prometheus, such as http://prometheus-operated.monitoring:9090.
{{- end }}
{{- end }}

{{- define "rope-service.validateMetrics" -}}
{{- $metrics := .Values.metrics }}
{{- if and $metrics.serviceMonitor.enabled $metrics.podMonitor.enabled }}
metrics.serviceMonitor.enabled and metrics.podMonitor.enabled are both true, and Prometheus would read each pod twice: set one of them to false.
{{- end }}
{{- range $name := list "serviceMonitor" "podMonitor" }}
{{- $monitor := index $metrics $name }}
{{- if $monitor.enabled }}
{{- if and $.Values.keys.enabled (not $monitor.keySecret.name) }}
metrics.{{ $name }}.keySecret.name is missing: with keys.enabled name a Secret that has an API key with the scope metrics.
{{- end }}
{{- if and (eq (include "rope-service.metricsScheme" $) "https") $.Values.tls.clientCa.enabled (not $monitor.tlsConfig) }}
metrics.{{ $name }} reads the port of HTTP, which requires certificates of clients (tls.clientCa): set ports.status, or metrics.{{ $name }}.tlsConfig with a certificate.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
