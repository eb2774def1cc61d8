package midstream.client.errors;

import io.grpc.Status;
import java.io.Serializable;
import java.time.Duration;
import java.util.List;
import java.util.Map;

/**
 * What an error is made of.
 *
 * @param message for people; empty: the class has one
 * @param reason UPPER_SNAKE, for programs; empty: the class has one, or there is none
 * @param code the gRPC status; null if the error arose in the client
 * @param metadata what the server added, by fixed keys
 * @param fieldViolations of an INVALID_ARGUMENT
 * @param retryAfter after which the server expects a retry to help; null if it did not say
 */
public record ErrorDetails(
        String message,
        String reason,
        Status.Code code,
        Map<String, String> metadata,
        List<FieldViolation> fieldViolations,
        Duration retryAfter)
        implements Serializable {

    /** Copies what may change. */
    public ErrorDetails {
        metadata = Map.copyOf(metadata);
        fieldViolations = List.copyOf(fieldViolations);
    }

    /** Of an error that arose in the client; an empty message is the class's own. */
    public static ErrorDetails of(String message) {
        return of(message, null);
    }

    /** The same, with the status that it amounts to. */
    public static ErrorDetails of(String message, Status.Code code) {
        return new ErrorDetails(message, "", code, Map.of(), List.of(), null);
    }

    ErrorDetails orElse(String defaultReason, String defaultMessage) {
        return new ErrorDetails(
                message.isEmpty() ? defaultMessage : message,
                reason.isEmpty() ? defaultReason : reason,
                code, metadata, fieldViolations, retryAfter);
    }
}
