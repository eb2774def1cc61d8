package midstream.interop;

import com.google.gson.Gson;
import com.google.gson.annotations.SerializedName;
import java.io.Reader;
import java.util.List;
import java.util.Map;

/** What the harness says on standard input. */
record Configuration(
        String kind,
        String target,
        @SerializedName("proxy_target") String proxyTarget,
        @SerializedName("scripted_target") String scriptedTarget,
        String control,
        Tls tls,
        @SerializedName("api_key") String apiKey,
        Map<String, String> models,
        List<String> scenarios) {

    /** How the servers are reached, if by TLS. */
    record Tls(@SerializedName("ca_file") String authorities, @SerializedName("server_name") String serverName) {
    }

    static Configuration read(Reader input) {
        return new Gson().fromJson(input, Configuration.class);
    }

    boolean isRaw() {
        return kind.equals("raw");
    }
}
