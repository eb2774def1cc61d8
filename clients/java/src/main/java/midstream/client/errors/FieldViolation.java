package midstream.client.errors;

import java.io.Serializable;

/** A field of a request (0-based snake case path, {@code messages[0].parts[1].text}) and what is wrong with it. */
public record FieldViolation(String field, String description) implements Serializable {
}
