// Package midstream streams a generation of any LLM behind a Midstream server, stops it midstream, and keeps the text.
//
// A [Client] starts runs ([Client.Generate]), follows those that exist ([Client.Watch]), stops, reads, lists and
// deletes them. A [RunStream] is a run that is followed, delta by delta, across lost connections. Closing it, or ending
// the context that it was started with, before the run has ended stops the run.
//
// Every error is a [*ClientError], or one of the types that wrap it: one for each reason that the server gives.
package midstream

// Version of this client.
const Version = "0.1.0"
