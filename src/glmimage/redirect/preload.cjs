// Loaded into every Node process that `glmimage exec` starts (NODE_OPTIONS=--require).
//
// A connection to a name of the hosted service is made to the server in FAL_SERVED_BY instead,
// whichever module asks: fetch, https, http2, WebSocket. Host header and certificate name stay
// those of the hosted service; the server's certificate covers them.
"use strict";

const net = require("node:net");

const DOMAINS = ["fal.run", "fal.ai", "fal.media", "falrun.com"];
const servedBy = process.env.FAL_SERVED_BY;

function isFalHost(host) {
  const name = String(host).toLowerCase().replace(/\.$/, "");
  return DOMAINS.some((domain) => name === domain || name.endsWith("." + domain));
}

function redirected(options) {
  if (!options.host || options.path || !isFalHost(options.host)) return options;
  if (Number(options.port) === 80) {
    throw new Error(`glmimage exec: http://${options.host} is not sent anywhere; use https.`);
  }
  const separator = servedBy.lastIndexOf(":");
  const host = servedBy.slice(0, separator).replace(/^\[|\]$/g, "");
  // a lookup of the caller's would look for the public name
  return { ...options, host, port: Number(servedBy.slice(separator + 1)), lookup: undefined };
}

if (servedBy) {
  // everything that opens a TCP connection ends here
  const connect = net.Socket.prototype.connect;
  net.Socket.prototype.connect = function (...args) {
    if (Array.isArray(args[0])) {
      // net.connect and tls.connect pass [options, callback], marked as already normalised
      args[0][0] = redirected(args[0][0]);
    } else if (args[0] !== null && typeof args[0] === "object") {
      args[0] = redirected(args[0]);
    } else if (typeof args[1] === "string") {
      const [port, host, ...rest] = args;
      args = [redirected({ port, host }), ...rest];
    }
    return connect.apply(this, args);
  };
}
