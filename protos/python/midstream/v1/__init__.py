"""Generated from protos/midstream/v1: the messages, and the stub and servicer of GenerationService."""
