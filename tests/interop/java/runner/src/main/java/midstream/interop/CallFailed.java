package midstream.interop;

import io.grpc.Status;
import java.util.List;
import java.util.Map;

/** A call, or a stream, that ended with a status of Midstream, whatever the kind shows of it. */
final class CallFailed extends RuntimeException {
    private static final long serialVersionUID = 1L;

    final transient Status.Code code;
    final String reason;
    final transient List<Map.Entry<String, String>> violations;

    CallFailed(Status.Code code, String reason, List<Map.Entry<String, String>> violations, Throwable cause) {
        super(code + " (" + reason + "): " + cause.getMessage(), cause);
        this.code = code;
        this.reason = reason;
        this.violations = violations;
    }
}
