// One conversation with the official TypeScript SDK; prints what it saw as one JSON object.
import Anthropic from '@anthropic-ai/sdk';

const client = new Anthropic({
  baseURL: process.env.GATEWAY,
  authToken: process.env.TOKEN,
  apiKey: null,
  maxRetries: 0,
});
const question = {
  model: process.env.MODEL,
  max_tokens: 64,
  messages: [{ role: 'user', content: 'Say hello.' }],
};

const message = await client.messages.create(question);

const deltas = [];
const stream = client.messages.stream(question);
stream.on('text', (text) => deltas.push(text));
const streamed = await stream.finalMessage();

const counted = await client.messages.countTokens({ model: question.model, messages: question.messages });

const models = [];
for await (const model of client.models.list()) models.push(model.id);

let refused = null;
try {
  await new Anthropic({ baseURL: process.env.GATEWAY, authToken: 'not-a-token', apiKey: null, maxRetries: 0 })
    .messages.create(question);
} catch (error) {
  refused = { kind: error.constructor.name, status: error.status };
}

console.log(JSON.stringify({
  text: message.content[0].text,
  stop_reason: message.stop_reason,
  deltas,
  streamed: streamed.content[0].text,
  output_tokens: streamed.usage.output_tokens,
  counted: counted.input_tokens,
  models,
  refused,
}));
