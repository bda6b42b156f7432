// The identity provider of the stories: the certified `oidc-provider`, in memory, with people who sign in by saying
// who they are. A program that plays a browser names its person in the header `x-login`; a real one gets a form.
//
// Reads one JSON object from the first line of standard input, prints one JSON line when it listens, and ends when
// standard input does.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const input = createInterface({ input: process.stdin });
const settings = JSON.parse((await input[Symbol.asyncIterator]().next()).value);
process.stdin.on('end', () => process.exit(0));
process.stdin.resume();

// Standard output is for the one line.
console.info = console.log = console.warn = console.error;

const people = new Map(Object.entries(settings.people));
const issuer = `http://127.0.0.1:${settings.port}`;

const key = (type, options, alg) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }),
  alg,
  use: 'sig',
  kid: alg.toLowerCase(),
});

const provider = new Provider(issuer, {
  clients: [{
    client_id: settings.client_id,
    client_secret: settings.client_secret,
    redirect_uris: [settings.redirect_uri],
    grant_types: ['authorization_code', 'refresh_token'],
    id_token_signed_response_alg: settings.id_token_signed_response_alg,
  }],
  jwks: {
    keys: [
      key('rsa', { modulusLength: 2048 }, 'RS256'),
      key('rsa', { modulusLength: 2048 }, 'PS256'),
      key('ec', { namedCurve: 'P-256' }, 'ES256'),
      key('ec', { namedCurve: 'P-521' }, 'ES512'),
      key('ed25519', {}, 'EdDSA'),
    ],
  },
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'ES512', 'EdDSA'] },
  cookies: { keys: ['only for tests'] },
  claims: { openid: ['sub', 'groups'], email: ['email', 'email_verified'], profile: ['name'] },
  // The gateway reads the id token, so the claims belong there.
  conformIdTokenClaims: false,
  features: { devInteractions: { enabled: false }, revocation: { enabled: true } },
  pkce: { required: () => true },
  scopes: ['openid', 'offline_access'],
  // `offline_access` counts only with a consent prompt, which a gateway does not ask for.
  issueRefreshToken: async () => true,
  expiresWithSession: async () => false,
  rotateRefreshToken: true,
  loadExistingGrant: async (ctx) => {
    const grant = new provider.Grant({
      clientId: ctx.oidc.client.clientId,
      accountId: ctx.oidc.session.accountId,
    });
    grant.addOIDCScope('openid email profile offline_access');
    await grant.save();
    return grant;
  },
  findAccount: async (ctx, id) => people.has(id)
    ? { accountId: id, claims: async () => ({ sub: id, ...people.get(id) }) }
    : undefined,
  renderError: async (ctx, out, error) => {
    console.error(error);
    ctx.body = out;
  },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
});

const callback = provider.callback();

const server = createServer(async (request, response) => {
  try {
    const { pathname } = new URL(request.url, issuer);
    if (request.method === 'PUT' && pathname.startsWith('/people/')) {
      // The administrator of the directory changes or (with `null`) removes a person.
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const claims = JSON.parse(Buffer.concat(chunks).toString());
      const id = decodeURIComponent(pathname.slice('/people/'.length));
      if (claims === null) people.delete(id); else people.set(id, claims);
      response.writeHead(204).end();
      return;
    }
    if (pathname.startsWith('/interaction/')) {
      await provider.interactionDetails(request, response);
      let accountId = request.headers['x-login'];
      if (request.method === 'POST') {
        const chunks = [];
        for await (const chunk of request) chunks.push(chunk);
        accountId = new URLSearchParams(Buffer.concat(chunks).toString()).get('login');
      }
      if (!accountId) {
        response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(`<!doctype html><html lang="en">
          <title>Sign in</title><form method="post"><label>Who are you? <input name="login"></label><button>Go</button></form>`);
        return;
      }
      if (accountId === 'nobody') {
        const denial = { error: 'access_denied', error_description: 'End-User aborted "><b>' };
        await provider.interactionFinished(request, response, denial, { mergeWithLastSubmission: false });
        return;
      }
      const login = { login: { accountId } };
      await provider.interactionFinished(request, response, login, { mergeWithLastSubmission: false });
      return;
    }
    callback(request, response);
  } catch (error) {
    response.writeHead(500).end(String(error));
  }
});

server.listen(settings.port, '127.0.0.1', () => process.stdout.write(`${JSON.stringify({ issuer })}\n`));
