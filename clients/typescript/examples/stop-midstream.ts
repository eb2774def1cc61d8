// Streams an answer, stops after so many characters, and shows what was kept.
//     MIDSTREAM_TARGET=127.0.0.1:50051 MIDSTREAM_MODEL=local/smollm2 node stop-midstream.js
import { CancelReason, Client, RunState, textOf } from "midstream-client";

const client = new Client(process.env["MIDSTREAM_TARGET"] ?? "127.0.0.1:50051");
const model = process.env["MIDSTREAM_MODEL"] ?? "local/smollm2";
const run = client.generate(model, "Tell me a story about a lighthouse.");

for await (const delta of run) {
  process.stdout.write(delta.text);
  if (run.text.length > 80) break;
}

const kept = await run.result();
console.log(
  `\n${RunState[kept.state]} ${CancelReason[kept.cancelReason]}: ${textOf(kept.message).length} characters kept`,
);
client.close();
