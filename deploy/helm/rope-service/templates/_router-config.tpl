{{/* One line "server" of HAProxy for a pod. Use: (dict "root" $ "pod" "rope-0") */}}
{{- define "rope-service.routerServer" -}}
{{- $values := .root.Values -}}
server {{ .pod }} {{ .pod }}.{{ include "rope-service.headlessName" .root }}.{{ .root.Release.Namespace }}.svc.{{ $values.clusterDomain }}:{{ $values.ports.http }} check
{{- if $values.ports.status }} port {{ $values.ports.status }}{{ end }}
{{- if $values.tls.enabled }}
{{- $name := $values.sessions.router.tls.serverName | default (printf "%s.%s.svc" (include "rope-service.fullname" .root) .root.Release.Namespace) }} ssl verify required ca-file /etc/haproxy/tls/ca.pem sni str({{ $name }}) verifyhost {{ $name }}
{{- if $values.ports.status }} no-check-ssl{{ end }}
{{- end }}
{{- end }}

{{/* Body of the 503 when no pod answers, or not the owner of a session. Clients repeat the request. */}}
{{- define "rope-service.routerProblem" -}}
{"type":"urn:rope-service:problem:no_replica","title":"No replica answers","status":503,"code":"no_replica","detail":"no replica answers, or the one that has the session does not","error":"no replica answers"}
{{- end }}

{{/* haproxy.cfg: the owner is the second part of an id, r1.OWNER.EPOCH.RANDOM.MAC. */}}
{{- define "rope-service.routerConfig" -}}
{{- $router := .Values.sessions.router }}
{{- $pods := list }}
{{- range until (include "rope-service.maxReplicas" . | int) }}
{{- $pods = append $pods (printf "%s-%d" (include "rope-service.fullname" $) .) }}
{{- end -}}
global
    log stdout format raw local0 info
    maxconn {{ int $router.maxConnections }}
    nbthread {{ int $router.threads }}
    hard-stop-after {{ int $router.drainSeconds }}s
    {{- if .Values.tls.enabled }}
    ssl-default-bind-options ssl-min-ver TLSv1.2
    {{- end }}

defaults
    mode http
    log global
    # no path: ids of sessions are secrets
    log-format '{"client":"%ci","method":"%HM","status":%ST,"ms":%Ta,"pod":"%s","end":"%tsc"}'
    option dontlognull
    timeout connect 2s
    timeout check 2s
    timeout queue 5s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout client 60s
    timeout server {{ add (.Values.settings.ROPE_MAX_TIMEOUT_S | default 300 | int) 10 }}s
    timeout tunnel {{ int $router.streamTimeoutSeconds }}s
    # a refused connection is tried again: no pod has received the request
    retries 3
    retry-on conn-failure
    option redispatch 1
    http-error status 503 content-type application/problem+json hdr Retry-After 1 string '{{ include "rope-service.routerProblem" . }}'
    default-server inter 2s fastinter 500ms fall 2 rise 1 init-addr none resolvers cluster resolve-prefer ipv4

resolvers cluster
    parse-resolv-conf
    accepted_payload_size 8192
    resolve_retries 3
    timeout resolve 1s
    timeout retry 1s
    hold valid 2s
    hold nx 2s
    hold other 5s
    hold obsolete 5s

frontend http
    bind :{{ int .Values.ports.http }}
    {{- if .Values.tls.enabled }} ssl crt /etc/haproxy/tls/tls.pem alpn h2,http/1.1{{ end }}
    # each pod has its own metrics, which Prometheus reads from it
    http-request return status 404 if { path,url_dec -m str /metrics }
    http-request set-var(txn.id) path,field(4,/) if { path_beg /v1/sessions/ }
    http-request set-var(txn.id) req.hdr(x-session-id) if { path /v1/step /v1/stream }
    http-request set-var(txn.owner) var(txn.id),field(2,.) if { var(txn.id) -m reg ^r1\.[A-Za-z0-9_-]{1,63}\. }
    {{- range $pods }}
    use_backend {{ . }} if { var(txn.owner) -m str {{ . }} }
    {{- end }}
    # ids of unknown pods reach any pod, which answers 421 or 410
    default_backend any

# new sessions and calls without a session: pods that are ready
backend any
    balance leastconn
    # after a connection that ended without an answer, only calls without effects are repeated
    retry-on conn-failure empty-response
    acl repeatable path /v1/rotate /v1/attention /v1/shift /v1/merge /v1/cos_sin /v1/positions /v1/resolve /v1/compare
    acl repeatable path /v1/presets /v1/variants /version
    acl repeatable path_reg ^/v2/models/(rope|rope_attention|rope_cos_sin)(/versions/1)?/infer$
    http-request disable-l7-retry unless repeatable
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host router
    http-check expect status 200
    {{- range $pods }}
    {{ include "rope-service.routerServer" (dict "root" $ "pod" .) }}
    {{- end }}
{{- range $pods }}

# sessions of {{ . }}, also while it drains: it is alive, but not ready
backend {{ . }}
    option httpchk
    http-check send meth GET uri /healthz ver HTTP/1.1 hdr Host router
    http-check expect status 200
    {{ include "rope-service.routerServer" (dict "root" $ "pod" .) }}
{{- end }}

frontend status
    bind :8404
    option dontlog-normal
    monitor-uri /readyz
    monitor fail if { nbsrv(any) lt 1 }
    http-request use-service prometheus-exporter if { path /metrics }
    http-request return status 200 if { path /healthz }
    http-request return status 404
{{- end }}
