// Streams a run over gRPC-Web, as a page would, and stops it by leaving; then shows what was kept.
//   MIDSTREAM_WEB=http://127.0.0.1:8080 MODEL=local/smollm2 node grpc-web.mjs "Tell me a story."
import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { GenerationService, Role, RunState } from "midstream-client/proto";

const baseUrl = process.env.MIDSTREAM_WEB ?? "http://127.0.0.1:8080";
const model = process.env.MODEL ?? "local/smollm2";
const prompt = process.argv[2] ?? "Tell me a story about a lighthouse.";

const client = createClient(GenerationService, createGrpcWebTransport({ baseUrl }));
const runId = crypto.randomUUID();
const leaving = new AbortController();
let text = "";

const message = { role: Role.USER, parts: [{ part: { case: "text", value: { text: prompt } } }] };
try {
  for await (const event of client.generate({ runId, model, messages: [message] }, { signal: leaving.signal })) {
    if (event.event.case === "delta" && event.event.value.payload.case === "text") {
      text += event.event.value.payload.value;
      process.stdout.write(event.event.value.payload.value);
    }
    if (text.length > 40) leaving.abort();
  }
} catch (error) {
  if (!leaving.signal.aborted) throw error;
}

const run = await client.getRun({ runId, waitUntilFinished: true });
const kept = (run.message?.parts ?? []).map(({ part }) => (part.case === "text" ? part.value.text : "")).join("");
console.log(`\n${RunState[run.state]}: ${kept.length} characters kept, ${kept.startsWith(text) ? "all that was seen" : "NOT what was seen"}`);
