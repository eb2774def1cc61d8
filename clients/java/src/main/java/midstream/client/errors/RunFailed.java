package midstream.client.errors;

import midstream.v1.Run;

/** A run ended FAILED. {@link #run()} is the whole run, {@link #partial()} what it had made. */
public class RunFailed extends MidstreamClientError {
    static final String DEFAULT_MESSAGE = "the run failed";

    private static final long serialVersionUID = 1L;

    private final Run run;

    /** As the client makes it. */
    public RunFailed(ErrorDetails details, Run run) {
        super(details.orElse("", DEFAULT_MESSAGE));
        this.run = run;
        at(run.getRunId(), run.getLastSequence(), run.getMessage());
    }

    /** The run as it ended. */
    public final Run run() {
        return run;
    }

    /** Whether another run of the same request may succeed. */
    public final boolean retryable() {
        return "true".equals(metadata().get("retryable"));
    }
}
