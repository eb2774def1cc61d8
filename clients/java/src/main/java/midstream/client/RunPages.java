package midstream.client;

import java.util.Iterator;
import java.util.function.Function;
import midstream.v1.ListRunsResponse;
import midstream.v1.Run;

/** The runs of all pages of a list. A page is asked for when the one before it is used up. */
final class RunPages implements Iterator<Run> {
    private final Function<String, ListRunsResponse> pageAt;
    private Iterator<Run> page;
    private String nextToken;

    RunPages(Function<String, ListRunsResponse> pageAt) {
        this.pageAt = pageAt;
        turnTo("");
    }

    @Override
    public boolean hasNext() {
        while (!page.hasNext() && !nextToken.isEmpty()) {
            turnTo(nextToken);
        }
        return page.hasNext();
    }

    @Override
    public Run next() {
        hasNext();
        return page.next();
    }

    private void turnTo(String token) {
        ListRunsResponse response = pageAt.apply(token);
        page = response.getRunsList().iterator();
        nextToken = response.getNextPageToken();
    }
}
