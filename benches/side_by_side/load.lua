-- wrk: uploads, requests of many accounts, and a summary in one line of JSON.
local body = tonumber(os.getenv("UPLOAD_BYTES") or "0")
local accounts = tonumber(os.getenv("ACCOUNTS") or "0")

if body > 0 then
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/octet-stream"
    wrk.body = string.rep("x", body)
end

if accounts > 0 then
    local prepared = {}
    function init()
        for number = 1, accounts do
            prepared[number] = wrk.format("GET", "/@account-" .. number .. "/small.json")
        end
    end
    if os.getenv("IN_ORDER") then
        local last = 0
        function request()
            last = last % accounts + 1
            return prepared[last]
        end
    else
        function request()
            return prepared[math.random(accounts)]
        end
    end
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '{"requests":%d,"bytes":%d,"us":%d,"refused":%d,"broken":%d,"p50":%d,"p99":%d,"p999":%d,"max":%d}\n',
        summary.requests, summary.bytes, summary.duration, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max))
end
