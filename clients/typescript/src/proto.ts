/**
 * The contract as generated: types, enums, the service, the schemas that `create` of @bufbuild/protobuf takes, and the
 * details that errors carry.
 */

export {
  BadRequestSchema,
  ErrorInfoSchema,
  QuotaFailureSchema,
  RetryInfoSchema,
  type BadRequest,
  type ErrorInfo,
  type QuotaFailure,
  type RetryInfo,
} from "./gen/google/rpc/error_details_pb.js";
export * from "./gen/midstream/v1/generation_service_pb.js";
export * from "./gen/midstream/v1/run_pb.js";
