package midstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;

class PackagingTest {
    private static String first(String pattern, String file) throws IOException {
        Matcher matcher = Pattern.compile(pattern, Pattern.MULTILINE).matcher(Files.readString(Path.of(file)));
        return matcher.find() ? matcher.group(1) : "nothing in " + file;
    }

    /** The clients have one version. */
    @Test
    void theVersionIsThePythonClients() throws IOException {
        String version = first("^version = \"(.+)\"$", "../python/pyproject.toml");

        assertEquals(version, first("^  <version>(.+)</version>$", "pom.xml"));
        assertEquals(version, first("^  <version>(.+)</version>$", "README.md"));
    }
}
