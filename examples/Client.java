// All accounting entries of a company, page by page, through pleo-proxy. Needs nothing but Java 11 or newer.
//
// usage: java Client.java [COMPANY_ID]      PLEO_BASE_URL: another address than http://127.0.0.1:8088

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.regex.Pattern;

class Client {
    static final String SANDBOX_COMPANY = "c0a1e5ce-0000-4000-8000-000000000001";
    // Your program has a JSON library; this one does without.
    static final Pattern NEXT = Pattern.compile("\"endCursor\":\"([A-Z2-7=~]*)\",\"hasNextPage\":true");
    static final Pattern ENTRY = Pattern.compile("\"performedAt\":\"");

    public static void main(String[] arguments) throws Exception {
        String proxy = System.getenv().getOrDefault("PLEO_BASE_URL", "http://127.0.0.1:8088");
        String company = arguments.length > 0 ? arguments[0] : SANDBOX_COMPANY;
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        long count = 0;
        String after = "";
        do {
            String query = "?company_id=" + company + "&limit=20" + after;
            HttpRequest request = HttpRequest.newBuilder(URI.create(proxy + "/v1/accounting-entries:search" + query))
                    .header("content-type", "application/json")
                    .timeout(Duration.ofSeconds(150))
                    .POST(HttpRequest.BodyPublishers.ofString("{\"includeDeleted\": false}"))
                    .build();
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            if (response.statusCode() != 200) {
                boolean isOurs = response.headers().firstValue("Pleo-Proxy-Error").isPresent();
                System.err.println((isOurs ? "pleo-proxy" : "Pleo") + " answered " + response.statusCode() + ": "
                        + response.body());
                System.exit(1);
            }
            count += ENTRY.matcher(response.body()).results().count();
            var next = NEXT.matcher(response.body());
            after = next.find() ? "&after=" + next.group(1) : null;
        } while (after != null);
        System.out.println(count + " entries");
    }
}
