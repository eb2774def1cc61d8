package midstream.client;

import midstream.v1.Message;
import midstream.v1.Part;
import midstream.v1.Role;
import midstream.v1.Text;
import midstream.v1.Tool;
import midstream.v1.ToolResult;

/** Values that requests are made of, from what is handy. */
public final class Messages {
    private Messages() {
    }

    /** A message of the application. */
    public static Message system(String text) {
        return message(Role.ROLE_SYSTEM, textPart(text));
    }

    /** A message of the person who asks. */
    public static Message user(String text) {
        return message(Role.ROLE_USER, textPart(text));
    }

    /** A message of the model. What a run has made is a Message already: {@code run.message()}. */
    public static Message assistant(String text) {
        return message(Role.ROLE_ASSISTANT, textPart(text));
    }

    /** What a tool returned. */
    public static Message toolResult(String toolCallId, String text) {
        return toolResult(ToolResult.newBuilder().setToolCallId(toolCallId).addParts(textPart(text)).build());
    }

    /** What a tool returned, or how it failed. */
    public static Message toolResult(ToolResult result) {
        return message(Role.ROLE_TOOL, Part.newBuilder().setToolResult(result).build());
    }

    /** Something that the model may call. The schema is JSON Schema as text, passed on byte for byte. */
    public static Tool tool(String name, String description, String parametersSchema) {
        return Tool.newBuilder()
                .setName(name)
                .setDescription(description)
                .setParametersSchema(parametersSchema)
                .build();
    }

    private static Part textPart(String text) {
        return Part.newBuilder().setText(Text.newBuilder().setText(text)).build();
    }

    private static Message message(Role role, Part part) {
        return Message.newBuilder().setRole(role).addParts(part).build();
    }
}
