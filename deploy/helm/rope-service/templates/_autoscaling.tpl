{{/*
Metrics of the autoscalers. Each expression is the share of a limit that a pod uses, one sample for each
pod. deploy/prometheus/adapter.yaml has the same expressions for a HorizontalPodAutoscaler.
*/}}

{{/* Labels that select the pods of this workload, and no other release in the namespace. */}}
{{- define "rope-service.metricSelector" -}}
{{- if .Values.autoscaling.keda.selector }}
{{- .Values.autoscaling.keda.selector }}
{{- else }}
{{- $suffix := ternary "[0-9]+" "[a-z0-9]+-[a-z0-9]{5}" (eq (include "rope-service.workloadKind" .) "StatefulSet") }}
{{- printf "namespace=%q,pod=~%q" .Release.Namespace (printf "%s-%s" (include "rope-service.fullname" .) $suffix) }}
{{- end }}
{{- end }}

{{/* Share of time in which the device computes. */}}
{{- define "rope-service.ratio.busy" -}}
max by (pod) (rate(rope_device_busy_seconds_total{ {{- .selector -}} }[{{ .window }}]) / rope_device_lanes{ {{- .selector -}} })
{{- end }}

{{/* Calls in the queue, as a share of its limit. */}}
{{- define "rope-service.ratio.queue" -}}
max by (pod) (avg_over_time(rope_queue_depth{ {{- .selector -}} }[{{ .window }}]) / rope_queue_limit{ {{- .selector -}} })
{{- end }}

{{/* Bytes of accepted requests, as a share of their limit. */}}
{{- define "rope-service.ratio.memory" -}}
max by (pod) (avg_over_time(rope_admitted_bytes{ {{- .selector -}} }[{{ .window }}]) / rope_admission_limit_bytes{ {{- .selector -}} })
{{- end }}

{{/* Bytes that sessions have reserved, as a share of all; 0 before the first session. */}}
{{- define "rope-service.ratio.kv" -}}
sum by (pod) (rope_kv_bytes{ {{- .selector -}} ,kind="reserved"}) / (sum by (pod) (rope_kv_bytes{ {{- .selector -}} ,kind=~"reserved|free"}) > 0) or sum by (pod) (rope_kv_bytes{ {{- .selector -}} ,kind="reserved"})
{{- end }}

{{/*
The highest ordinal of a pod with sessions, plus one. A StatefulSet removes the pod with the highest
ordinal first, so no session ends while it has at least this number of pods.
*/}}
{{- define "rope-service.occupiedPods" -}}
{{- $name := include "rope-service.fullname" . }}
{{- $pods := list }}
{{- range $ordinal := until (int .Values.autoscaling.maxReplicas) }}
{{- $pods = append $pods (printf "(sum by (pod) (rope_sessions{namespace=%q,pod=\"%s-%d\"}) > bool 0) * %d" $.Release.Namespace $name $ordinal (add1 $ordinal)) }}
{{- end -}}
max({{ join " or " $pods }} or 0 * max by (pod) (rope_ready{ {{- include "rope-service.metricSelector" . -}} }))
{{- end }}

{{/* The shares that have a target, as YAML: a map from name to target. */}}
{{- define "rope-service.targets" -}}
{{- $targets := dict }}
{{- range $name, $target := .Values.autoscaling.targets }}
{{- if and $target (or (ne $name "kv") $.Values.sessions.enabled) }}
{{- $_ := set $targets $name $target }}
{{- end }}
{{- end }}
{{- toYaml $targets }}
{{- end }}

{{/*
"behavior" of both autoscalers. With sessions the number of pods falls only after the longest lease of
a session, so that abandoned sessions have ended; Kubernetes allows an hour at most.
*/}}
{{- define "rope-service.scalingBehavior" -}}
{{- $down := .Values.autoscaling.scaleDown }}
{{- $sessionTtl := min 3600 (int (ceil (float64 (index .Values.settings "ROPE_SESSION_TTL_S" | default 3600)))) }}
scaleUp:
  stabilizationWindowSeconds: 0
  selectPolicy: Max
  policies:
    - {type: Percent, value: 100, periodSeconds: 60}
    - {type: Pods, value: 2, periodSeconds: 60}
scaleDown:
  stabilizationWindowSeconds: {{ if kindIs "invalid" $down.stabilizationSeconds }}{{ ternary $sessionTtl 300 .Values.sessions.enabled }}{{ else }}{{ $down.stabilizationSeconds }}{{ end }}
  {{- if and .Values.sessions.enabled .Values.autoscaling.hpa.enabled (not $down.endSessions) }}
  selectPolicy: Disabled
  {{- else }}
  selectPolicy: Max
  policies:
    - {type: Pods, value: {{ $down.pods }}, periodSeconds: {{ $down.periodSeconds }}}
  {{- end }}
{{- end }}
