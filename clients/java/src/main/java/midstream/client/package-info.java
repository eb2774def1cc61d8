/** Midstream client: stream a generation, stop it midstream, keep the partial text. */
package midstream.client;
