// A receiver that prints what it receives: first {"port"}, then {"tag", "time", "record"} for each entry, a line each.
// Its one argument holds the options of FluentServer as JSON. SIGTERM ends it.
// An EventTime is printed as [seconds, nanoseconds]: as one number it would lose digits.
"use strict";

const {EventTime, FluentServer} = require("@fluent-org/logger");

const print = line => process.stdout.write(JSON.stringify(line) + "\n");

const server = new FluentServer(JSON.parse(process.argv[2]));
server.on("entry", (tag, time, record) =>
  print({tag, time: time instanceof EventTime ? [time.epoch, time.nano] : time, record})
);
process.on("SIGTERM", () => process.stdout.write("", () => process.exit())); // not before everything is printed
server.listen().then(() => print({port: server.port}));
