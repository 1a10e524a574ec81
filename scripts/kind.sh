#!/usr/bin/env bash
# `make kind`: a cluster in Docker, the operator in it, simulated regions, and a call. Run again, it goes on where it is.
set -euo pipefail
cd "$(dirname "$0")/.."

cluster=aoai
image=aoai-operator:kind
context=kind-$cluster
gateway=http://127.0.0.1:8080

missing=()
for program in docker kind kubectl helm curl; do
  command -v "$program" >/dev/null || missing+=("$program")
done
if ((${#missing[@]})); then
  echo "make kind needs these programs on the PATH: ${missing[*]}" >&2
  echo "kind: https://kind.sigs.k8s.io; helm 4: https://helm.sh. Without Docker, \`make demo\` shows the same." >&2
  exit 2
fi
if ! docker info >/dev/null 2>&1; then
  echo "make kind needs a Docker engine that answers; \`docker info\` fails. Without one, \`make demo\` shows the same." >&2
  exit 2
fi

step() { printf '\n== %s\n' "$1"; }

step "a cluster"
kind get clusters 2>/dev/null | grep -qx "$cluster" || kind create cluster --config kind-config.yaml --wait 120s

step "the image"
docker build --tag "$image" .
kind load docker-image "$image" --name "$cluster"

step "the operator"
helm upgrade --install aoai-operator charts/aoai-operator --kube-context "$context" \
  --namespace aoai-system --create-namespace --wait --timeout 5m \
  --set image.repository="${image%:*}",image.tag="${image#*:}",image.pullPolicy=Never \
  --set gateway.service.type=NodePort,gateway.service.httpNodePort=30080

step "two simulated regions, a pool, a tenant"
kubectl --context "$context" apply --server-side -f examples/kind/regions.yaml
kubectl --context "$context" -n ai rollout status deployment/regions --timeout=120s
kubectl --context "$context" apply --server-side -f examples/kind/pool.yaml
kubectl --context "$context" -n ai wait aoaibackendpool/simulated tenantquota/simulated-tenant \
  --for=condition=Ready --timeout=120s
kubectl --context "$context" -n ai get aoai -o wide

step "a call"
curl --fail-with-body --silent --show-error "$gateway/ai/simulated/openai/v1/chat/completions" \
  -H 'api-key: only-for-the-simulated-pool' -H 'content-type: application/json' \
  -d '{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}'
printf '\n\nIt stays at %s. To end it: kind delete cluster --name %s\n' "$gateway" "$cluster"
