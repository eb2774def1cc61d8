package midstream.interop;

import java.util.ArrayDeque;
import java.util.Deque;
import midstream.v1.Run;

/** What a scenario acts on: callers, which it closes in the end, and the control of the harness. */
final class Stage implements AutoCloseable {
    final Control control;
    final Configuration configuration;
    private final Deque<AutoCloseable> open = new ArrayDeque<>();

    Stage(Configuration configuration, Control control) {
        this.configuration = configuration;
        this.control = control;
    }

    boolean isRaw() {
        return configuration.isRaw();
    }

    String model(String script) {
        return configuration.models().get(script);
    }

    /** A caller with connections of its own. */
    Caller caller() {
        return caller(configuration.target(), false);
    }

    Caller proxiedCaller() {
        return caller(configuration.proxyTarget(), false);
    }

    /** One that waits longer than the grace of its runs for a server that is away. */
    Caller patientCaller() {
        return caller(configuration.target(), true);
    }

    Caller scriptedCaller() {
        return kept(isRaw()
                ? new RawCaller(configuration.scriptedTarget(), null, configuration.apiKey())
                : new ClientCaller(configuration.scriptedTarget(), null, configuration.apiKey(), false));
    }

    /** As PROTOCOL.md means it, with the id for a text. */
    Start start(String runId, String script) {
        return Start.of(runId, model(script), runId);
    }

    /** Starts a run, to be closed in the end. */
    Reader begin(Caller caller, Start start) {
        return kept(caller.start(start));
    }

    /** Starts a run and reads it to the end. */
    Run complete(Caller caller, Start start) {
        return begin(caller, start).toEnd();
    }

    /** Starts a run, opens a gate, and reads until the text is there. */
    Reader beginUntil(Caller caller, Start start, String gate, String text) {
        Reader reader = begin(caller, start);
        control.open(start.request().getRunId(), gate);
        reader.untilText(text);
        return reader;
    }

    <T extends AutoCloseable> T kept(T resource) {
        open.push(resource);
        return resource;
    }

    @Override
    public void close() throws Exception {
        while (!open.isEmpty()) {
            open.pop().close();
        }
    }

    private Caller caller(String target, boolean isPatient) {
        Configuration.Tls tls = configuration.tls();
        return kept(isRaw()
                ? new RawCaller(target, tls, configuration.apiKey())
                : new ClientCaller(target, tls, configuration.apiKey(), isPatient));
    }
}
