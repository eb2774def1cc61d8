package midstream.client;

import midstream.v1.GenerateRequest;
import midstream.v1.WatchRunRequest;

/** The request of a call of a stream. */
sealed interface Opening {
    /** The run that it follows. */
    String runId();

    /** Whether its stream holds a claim. */
    boolean claims();

    /** Starts the run, or attaches to it. */
    record Start(GenerateRequest request) implements Opening {
        @Override
        public String runId() {
            return request.getRunId();
        }

        @Override
        public boolean claims() {
            return true;
        }
    }

    /** Follows a run that exists. */
    record Watch(WatchRunRequest request) implements Opening {
        @Override
        public String runId() {
            return request.getRunId();
        }

        @Override
        public boolean claims() {
            return request.getClaim();
        }
    }
}
