{{/* The endpoint of a ServiceMonitor or a PodMonitor. */}}
{{- define "rope-service.metricsEndpoint" -}}
{{- $monitor := .monitor }}
{{- $root := .root }}
port: {{ include "rope-service.metricsPort" $root }}
path: /metrics
scheme: {{ include "rope-service.metricsScheme" $root }}
interval: {{ $monitor.interval }}
scrapeTimeout: {{ $monitor.scrapeTimeout }}
{{- with $monitor.tlsConfig }}
tlsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $root.Values.keys.enabled }}
authorization:
  type: Bearer
  credentials:
    name: {{ $monitor.keySecret.name | quote }}
    key: {{ $monitor.keySecret.key | quote }}
{{- end }}
relabelings:
  # the alerts and the dashboard use these two labels
  - {targetLabel: job, replacement: rope-service}
  - {sourceLabels: [namespace, pod], separator: /, targetLabel: instance}
  {{- with $monitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
