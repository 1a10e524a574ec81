{{/* The container of an Envoy: the same in a pod of its own and beside the operator. */}}
{{- define "aoai-operator.envoyContainer" -}}
name: envoy
image: {{ include "aoai-operator.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [envoy]
args:
- --config-path
- /etc/envoy/bootstrap.json
- --service-node
- $(POD_NAME)
- --concurrency
- {{ .Values.gateway.concurrency | quote }}
- --drain-time-s
- {{ .Values.gateway.drainSeconds | quote }}
- --log-level
- {{ .Values.gateway.logLevel }}
# Its access log tells the operator of throttling: it is to be written at once, not every 10 s.
- --file-flush-interval-msec
- "50"
- --disable-hot-restart
- --skip-deprecated-logs
env:
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
ports:
- {name: http, containerPort: 8080}
- {name: https, containerPort: 8443}
# The port is opened when the first whole configuration has come, and not before. Whether a region can serve is not
# asked here: with all of them out, clients are to be told when to come back.
# There is no liveness probe: an Envoy that waits for the control plane, or is busy, must not be killed for it.
readinessProbe:
  tcpSocket: {port: http}
  periodSeconds: 2
  failureThreshold: 3
lifecycle:
  preStop:
    exec:
      command:
      - aoai-operator
      - drain
      - --admin
      - 127.0.0.1:9901
      - --within
      - {{ printf "%ds" (int .Values.gateway.drainSeconds) }}
resources:
  {{- toYaml .Values.gateway.resources | nindent 2 }}
securityContext:
  {{- include "aoai-operator.securityContext" . | nindent 2 }}
{{- end }}
