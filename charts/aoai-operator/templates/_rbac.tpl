{{/* What the operator does where pools and tenants are. */}}
{{- define "aoai-operator.watchedRules" -}}
- apiGroups: [aoai.dev]
  resources: [aoaibackendpools, tenantquotas]
  verbs: [get, list, watch]
- apiGroups: [aoai.dev]
  resources: [aoaibackendpools/status, tenantquotas/status]
  verbs: [patch]
# The routing tables. An apply of what is not there yet needs both create and patch; a shard that is no longer needed is
# deleted.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
# By name only, those that pools and tenants name: whoever may list Secrets reads all of them.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
{{- if .Values.rbac.generatedSecrets }}
# Those that tenants ask for in spec.credentials; one that is there already is never written, if it is not the tenant's.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, update]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{- define "aoai-operator.subject" -}}
- kind: ServiceAccount
  name: {{ include "aoai-operator.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
