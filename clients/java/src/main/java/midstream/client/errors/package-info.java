/** Everything that the client throws, as one tree below {@link midstream.client.errors.MidstreamClientError}. */
package midstream.client.errors;
