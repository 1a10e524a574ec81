-- Health of AOAIBackendPool and TenantQuota for Argo CD, which counts a resource without a script as healthy.
-- One sick endpoint is no trouble of the pool's: Ready says whether it serves.
local waiting = {status = "Progressing", message = "Waiting for the operator."}

if obj.spec ~= nil and obj.spec.suspend == true then
  return {status = "Suspended", message = "Suspended by spec.suspend."}
end
if obj.status == nil or obj.status.conditions == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return waiting
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end

local stalled, ready = conditions.Stalled, conditions.Ready
if stalled ~= nil and stalled.status == "True" then
  return {status = "Degraded", message = stalled.message}
end
if ready == nil then
  return waiting
end
if ready.status == "True" then
  return {status = "Healthy", message = ready.message}
end
-- Not yet, as opposed to: not like this. Envoys that are still to take the newest table are no fault.
if ready.status == "Unknown" or ready.reason == "Pending" then
  return {status = "Progressing", message = ready.message}
end
return {status = "Degraded", message = ready.message}
