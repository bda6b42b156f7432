// A conversation with the official TypeScript SDK that uses everything: tools, thinking, betas, counting, retries, and
// every error as its own class. Prints what it saw as one JSON object.
import Anthropic from '@anthropic-ai/sdk';

const client = (maxRetries = 0) =>
  new Anthropic({ baseURL: process.env.GATEWAY, authToken: process.env.TOKEN, apiKey: null, maxRetries });
const gateway = client();
const weather = {
  name: 'weather',
  description: 'The weather of a city.',
  input_schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
};
const question = {
  model: process.env.MODEL,
  messages: [{ role: 'user', content: 'How is the weather in Köln?' }],
  tools: [weather],
};
const of = (message, kind) => message.content.filter((block) => block.type === kind);
const shown = (message) => ({
  kinds: message.content.map((block) => block.type),
  text: of(message, 'text').map((block) => block.text).join(''),
  thinking: of(message, 'thinking').map((block) => block.thinking).join(''),
  tool: of(message, 'tool_use').map((block) => [block.name, block.input]),
  stop_reason: message.stop_reason,
  output_tokens: message.usage.output_tokens,
});

const message = await gateway.beta.messages.create({ ...question, max_tokens: 64, betas: ['context-1m-2025-08-07'] });

let deltas = 0;
const stream = gateway.messages.stream({ ...question, max_tokens: 64 });
stream.on('streamEvent', (event) => { if (event.type === 'content_block_delta') deltas += 1; });
const streamed = await stream.finalMessage();

const counted = await gateway.messages.countTokens(question);

const errors = {};
for (const status of [400, 401, 403, 404, 429, 500]) {
  try {
    await gateway.messages.create({ ...question, max_tokens: 1000 + status });
  } catch (error) {
    errors[status] = [error.constructor.name, error.status, error.error?.error?.type];
  }
}

let said = '';
let broken = null;
try {
  for await (const event of await gateway.messages.create({ ...question, max_tokens: 2000, stream: true })) {
    if (event.type === 'content_block_delta' && event.delta.type === 'text_delta') said += event.delta.text;
  }
} catch (error) {
  if (!(error instanceof Anthropic.APIError)) throw error;
  broken = error.error?.error?.type;
}

console.log(JSON.stringify({
  message: shown(message),
  streamed: shown(streamed),
  deltas,
  counted: counted.input_tokens,
  errors,
  said,
  broken,
  retried: shown(await client(2).messages.create({ ...question, max_tokens: 3000 })).text,
}));
