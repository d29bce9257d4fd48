-- Health of a SparkApplication that ends. Argo CD's own is for streams: there, executors that run are the aim, and an
-- application that is suspended makes progress for ever.
-- States: https://github.com/kubeflow/spark-operator/blob/v2.5.2/api/v1beta2/sparkapplication_types.go
local application = (obj.status or {}).applicationState or {}
local state = application.state or ""
local reason = application.errorMessage or ""
if reason ~= "" then
  reason = ": " .. reason
end

-- A Kueue queue holds an application back by `suspend` as well: it waits for somebody, not for something.
if state == "SUSPENDED" or state == "SUSPENDING" or (state == "" and obj.spec.suspend) then
  return {status = "Suspended", message = "starts no run until `suspend` is false"}
elseif state == "COMPLETED" then
  return {status = "Healthy", message = "the run has ended and its vectors are published"}
elseif state == "FAILED" then
  return {status = "Degraded", message = "the run failed" .. reason}
elseif state == "FAILING" or state == "SUBMISSION_FAILED" then
  return {status = "Progressing", message = "a try failed, and is made again if the limit of tries allows it" .. reason}
elseif state == "" then
  return {status = "Progressing", message = "waits for the operator"}
end
return {status = "Progressing", message = "the run is " .. state .. reason}
