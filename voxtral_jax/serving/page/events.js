/**
 * The events of a stream of server-sent events, as they arrive.
 * @param {ReadableStream<Uint8Array>} stream
 * @returns {AsyncGenerator<object>} what each event's data says in JSON
 */
export async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    // The network cuts where it likes; an event ends with an empty line.
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const line = event.split("\n").find((line) => line.startsWith("data: "));
      yield JSON.parse(line.slice("data: ".length));
    }
  }
}
