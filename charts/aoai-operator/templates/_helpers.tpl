{{/* First part of the names of all objects, and --name of the operator. Services add "-gateway", Secrets more. */}}
{{- define "aoai-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Names of what lies in no namespace: two releases in two namespaces must not share them. */}}
{{- define "aoai-operator.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "aoai-operator.fullname" .) -}}
{{- end }}

{{- define "aoai-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* Labels that never change: of (list . component). */}}
{{- define "aoai-operator.selectorLabels" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ include "aoai-operator.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* All labels: of (list . component). */}}
{{- define "aoai-operator.labels" -}}
{{- $root := first . -}}
{{ include "aoai-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ include "aoai-operator.name" $root }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "aoai-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end }}

{{- define "aoai-operator.serviceAccount" -}}
{{- default (include "aoai-operator.fullname" .) .Values.operator.serviceAccount.name -}}
{{- end }}

{{- define "aoai-operator.gatewayServiceAccount" -}}
{{- default (printf "%s-gateway" (include "aoai-operator.fullname" .)) .Values.gateway.serviceAccount.name -}}
{{- end }}

{{/* The host of the control plane. The operator's certificate has the same name. */}}
{{- define "aoai-operator.xdsHost" -}}
{{- printf "%s-xds.%s.svc" (include "aoai-operator.fullname" .) .Release.Namespace -}}
{{- end }}

{{- define "aoai-operator.gatewayDeployment" -}}
{{- if and .Values.gateway.enabled (eq .Values.gateway.placement "Deployment") }}true{{ end -}}
{{- end }}

{{- define "aoai-operator.gatewayInOperatorPod" -}}
{{- if and .Values.gateway.enabled (eq .Values.gateway.placement "OperatorPod") }}true{{ end -}}
{{- end }}

{{/* The component whose pods the clients call. */}}
{{- define "aoai-operator.gatewayComponent" -}}
{{- if include "aoai-operator.gatewayInOperatorPod" . }}operator{{ else }}gateway{{ end -}}
{{- end }}

{{/* Bytes of Envoy's heap at which it protects itself: nineteen twentieths of the memory limit. */}}
{{- define "aoai-operator.maxHeapBytes" -}}
{{- $limit := .Values.gateway.resources.limits.memory -}}
{{- $unit := ternary 1073741824 1048576 (hasSuffix "Gi" $limit) -}}
{{- div (mul (regexFind "^[0-9]+" $limit | int64) $unit 19) 20 -}}
{{- end }}

{{/* Security of a pod, and of a container: what the Pod Security Standard "restricted" asks for, and more. */}}
{{- define "aoai-operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "aoai-operator.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Spread over zones and nodes: of (list . component spread). */}}
{{- define "aoai-operator.topologySpread" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $spread := index . 2 -}}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- topologyKey: {{ $key }}
  maxSkew: 1
  whenUnsatisfiable: {{ $spread.whenUnsatisfiable }}
  labelSelector:
    matchLabels:
      {{- include "aoai-operator.selectorLabels" (list $root $component) | nindent 6 }}
  # Old pods of a rollout must not count, or the new ones are pushed together.
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{/* Where pods may run: of their values. */}}
{{- define "aoai-operator.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Seconds for the operator's pod to stop: with an Envoy in it, the requests under way count too. */}}
{{- define "aoai-operator.operatorGrace" -}}
{{- if include "aoai-operator.gatewayInOperatorPod" . -}}
{{- max .Values.operator.terminationGracePeriodSeconds (include "aoai-operator.gatewayGrace" . | int) -}}
{{- else -}}
{{- .Values.operator.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end }}

{{/* Seconds for an Envoy to stop: it drains, and then ends. */}}
{{- define "aoai-operator.gatewayGrace" -}}
{{- add .Values.gateway.drainSeconds 15 -}}
{{- end }}

{{/* The files of an Envoy, as data of a ConfigMap. They are written by `make golden` from the operator's own code. */}}
{{- define "aoai-operator.gatewayFiles" -}}
{{- $folder := ternary "files/operator-pod" "files/gateway" (eq .Values.gateway.placement "OperatorPod") -}}
{{- range $path, $_ := .Files.Glob (printf "%s/*.json" $folder) }}
{{ base $path }}: |
{{ tpl ($.Files.Get $path) $ | trim | indent 2 }}
{{- end }}
{{- end }}

{{/* Where clients in the cluster reach the gateway by HTTP; without one, the Envoy of their own pod. */}}
{{- define "aoai-operator.gatewayUrl" -}}
{{- if .Values.gateway.enabled -}}
{{- $port := int .Values.gateway.service.httpPort -}}
http://{{ include "aoai-operator.fullname" . }}-gateway.{{ .Release.Namespace }}.svc{{ if ne $port 80 }}:{{ $port }}{{ end }}
{{- else -}}
http://127.0.0.1:18080
{{- end -}}
{{- end }}

{{/* The threads of all Envoys of the gateway together, at most. */}}
{{- define "aoai-operator.gatewayWorkers" -}}
{{- $gateway := .Values.gateway -}}
{{- $envoys := $gateway.replicas -}}
{{- if eq $gateway.placement "OperatorPod" }}{{ $envoys = .Values.operator.replicas }}{{ else if $gateway.autoscaling.enabled }}{{ $envoys = $gateway.autoscaling.maxReplicas }}{{ end -}}
{{ max 1 (mul (int $envoys) (int $gateway.concurrency)) }}
{{- end }}
