// All accounting entries of a company, page by page, through pleo-proxy. Needs nothing but .NET 8 or newer:
// put it into a new console project (`dotnet new console`) as Program.cs, or with .NET 10 run `dotnet run Client.cs`.
//
// usage: [COMPANY_ID]      PLEO_BASE_URL: another address than http://127.0.0.1:8088

using System;
using System.Collections.Generic;
using System.Net.Http;
using System.Text;
using System.Text.Json;
using System.Threading.Tasks;

var proxy = Environment.GetEnvironmentVariable("PLEO_BASE_URL") ?? "http://127.0.0.1:8088";
var company = args.Length > 0 ? args[0] : "c0a1e5ce-0000-4000-8000-000000000001"; // the sandbox's first company

// No HTTP_PROXY on the way to this machine; longer than the proxy's own limits, so that its answer says what went wrong.
using var http = new HttpClient(new HttpClientHandler { UseProxy = false })
{
    BaseAddress = new Uri(proxy),
    Timeout = TimeSpan.FromSeconds(150),
};

var count = 0;
await foreach (var entry in Entries(company))
{
    var value = entry.GetProperty("transactionValue");
    var amount = value.GetProperty("minors").GetInt64() / 100m;
    Console.WriteLine($"{entry.GetProperty("performedAt")} {amount,10:F2} {value.GetProperty("currency")} {entry.GetProperty("note")}");
    count += 1;
}
Console.WriteLine($"{count} entries");

async IAsyncEnumerable<JsonElement> Entries(string companyId)
{
    var after = "";
    while (true)
    {
        var path = $"/v1/accounting-entries:search?company_id={companyId}&limit=20{after}";
        var page = await Call(HttpMethod.Post, path, """{"includeDeleted": false}""");
        foreach (var entry in page.GetProperty("data").EnumerateArray()) yield return entry;
        var pagination = page.GetProperty("pagination");
        if (!pagination.GetProperty("hasNextPage").GetBoolean()) yield break;
        after = "&after=" + Uri.EscapeDataString(pagination.GetProperty("endCursor").GetString()!);
    }
}

async Task<JsonElement> Call(HttpMethod method, string path, string? body = null)
{
    using var request = new HttpRequestMessage(method, path);
    if (body != null) request.Content = new StringContent(body, Encoding.UTF8, "application/json");
    using var answer = await http.SendAsync(request);
    var text = await answer.Content.ReadAsStringAsync();
    if (answer.IsSuccessStatusCode) return JsonSerializer.Deserialize<JsonElement>(text);
    var whose = answer.Headers.Contains("Pleo-Proxy-Error") ? "pleo-proxy" : "Pleo";
    throw new HttpRequestException($"{whose} answered {(int)answer.StatusCode}: {text}");
}
