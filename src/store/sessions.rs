//! Sessions: who is signed in, from where, and with which generation of refresh tokens. Every change is one conditional
//! statement, so that a session that has ended stays so and no generation is made twice.

use crate::domain::ids::Timestamp;
use crate::domain::rotation::{Standing, Verdict};
use crate::ports::{Row, Value};
use crate::store::{Edge, Store, StoreError, as_text, integer, maybe_integer, text};

const TABLE: &str = "sessions";

/// `claimed_until` of a session whose last refresh nobody waited for.
const UNFETCHED: i64 = -1;

/// A session that begins.
#[derive(Debug, Clone, Copy)]
pub struct NewSession<'a> {
    /// Its id, the claim `sid` of its tokens.
    pub id: &'a str,
    /// Whose: the claim `sub`.
    pub subject: &'a str,
    /// E-mail address.
    pub email: Option<&'a str>,
    /// Name.
    pub name: Option<&'a str>,
    /// How it began, such as `device`.
    pub means: &'a str,
    /// The address that fetched its tokens.
    pub from: &'a str,
    /// The user agent that did.
    pub client: &'a str,
    /// The key that signed its token.
    pub key_id: &'a str,
    /// Generation of its refresh token.
    pub generation: u64,
    /// When nothing of it can be valid any more.
    pub expires_at: Timestamp,
}

/// A session that was refreshed.
#[derive(Debug, Clone, Copy)]
pub struct Refreshed<'a> {
    /// Which.
    pub id: &'a str,
    /// Generation of the token that it was refreshed with; the new one is the next.
    pub from_generation: u64,
    /// Whose, as the identity provider says now.
    pub subject: &'a str,
    /// E-mail address.
    pub email: Option<&'a str>,
    /// Name.
    pub name: Option<&'a str>,
    /// The address that asked.
    pub from: &'a str,
    /// The key that signed the new token.
    pub key_id: &'a str,
    /// What the client is answered, sealed.
    pub answer: &'a str,
    /// Whether the client still waits for it. If not, it may ask for it for longer ([`KEPT`](crate::domain::rotation::KEPT)).
    pub is_awaited: bool,
    /// When nothing of it can be valid any more.
    pub expires_at: Timestamp,
}

/// A session as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Its id.
    pub id: String,
    /// Whose.
    pub subject: String,
    /// E-mail address; empty when unknown.
    pub email: String,
    /// Name; empty when unknown.
    pub name: String,
    /// How it began.
    pub means: String,
    /// When.
    pub created_at: Timestamp,
    /// From which address.
    pub created_from: String,
    /// By which user agent.
    pub client: String,
    /// When its newest token was made.
    pub refreshed_at: Timestamp,
    /// For which address.
    pub refreshed_from: String,
    /// When nothing of it can be valid any more.
    pub expires_at: Timestamp,
}

/// A session that an act has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedSession {
    /// Which.
    pub id: String,
    /// Whose; empty when unknown.
    pub subject: String,
}

/// Which sessions are listed.
#[derive(Debug, Clone, Copy)]
pub struct SessionsQuery<'a> {
    /// Where the page lies.
    pub edge: Edge<'a>,
    /// At most so many.
    pub most: i64,
    /// Only of this person.
    pub subject: Option<&'a str>,
}

/// The columns that [`listed`] reads, in its order.
const COLUMNS: &str = "id, subject, email, name, means, created_at, created_from, client, refreshed_at, refreshed_from, \
     expires_at";

impl Store<'_> {
    /// Begins a session. `false` if there is one with this id.
    pub async fn begin_session(&self, session: NewSession<'_>, now: Timestamp) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "INSERT INTO sessions (id, subject, email, name, means, created_at, created_from, client, refreshed_at, \
                 refreshed_from, key_id, generation, claimed_until, answer, expires_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $6, $7, $9, $10, 0, '', $11) \
                 ON CONFLICT (id) DO NOTHING RETURNING id",
                &[
                    as_text(session.id),
                    as_text(session.subject),
                    as_text(session.email.unwrap_or_default()),
                    as_text(session.name.unwrap_or_default()),
                    as_text(session.means),
                    time(now),
                    as_text(session.from),
                    as_text(session.client),
                    as_text(session.key_id),
                    number(session.generation),
                    time(session.expires_at),
                ],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Whether this session was ended. One that the store does not know was not.
    pub async fn has_session_ended(&self, id: &str) -> Result<bool, StoreError> {
        let rows = self.run("SELECT 1 FROM sessions WHERE id = $1 AND ended_at IS NOT NULL", &[as_text(id)]).await?;
        Ok(!rows.is_empty())
    }

    /// Claims the refresh of a session with a token of `generation`, until `until`: of several that ask at once one
    /// hears [`Verdict::Newest`] and refreshes it. `None` if there is no such session.
    pub async fn claim_refresh(
        &self,
        id: &str,
        generation: u64,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Verdict>, StoreError> {
        let claimed = self
            .run(
                "UPDATE sessions SET claimed_until = $1 WHERE id = $2 AND ended_at IS NULL AND expires_at > $3 \
                 AND claimed_until <= $3 AND generation <= $4 RETURNING id",
                &[time(until), as_text(id), time(now), number(generation)],
            )
            .await?;
        if !claimed.is_empty() {
            return Ok(Some(Verdict::Newest));
        }
        let standing = self.session_standing(id, now).await?;
        Ok(standing.map(|standing| match standing.judge(generation, now) {
            // It was let go between the two statements: whoever asks again gets it.
            Verdict::Newest => Verdict::UnderWay,
            verdict => verdict,
        }))
    }

    async fn session_standing(&self, id: &str, now: Timestamp) -> Result<Option<Standing>, StoreError> {
        let rows = self
            .run(
                "SELECT generation, refreshed_at, claimed_until, answer, ended_at, expires_at FROM sessions WHERE id = $1",
                &[as_text(id)],
            )
            .await?;
        let standing = |mut row: Row| {
            let ended_at = maybe_integer(&row, 4, TABLE, "ended_at")?;
            let generation = integer(&row, 0, TABLE, "generation")?;
            let claimed_until = integer(&row, 2, TABLE, "claimed_until")?;
            Ok(Standing {
                generation: u64::try_from(generation)
                    .map_err(|_| StoreError::Inconsistent { table: TABLE, column: "generation" })?,
                refreshed_at: Timestamp::from_millis(integer(&row, 1, TABLE, "refreshed_at")?),
                claimed_until: Timestamp::from_millis(claimed_until),
                is_unfetched: claimed_until == UNFETCHED,
                is_over: ended_at.is_some() || integer(&row, 5, TABLE, "expires_at")? <= now.as_millis(),
                answer: text(&mut row, 3, TABLE, "answer")?,
            })
        };
        rows.into_iter().next().map(standing).transpose()
    }

    /// Notes a refresh and gives up its claim. `false`, with nothing noted, if the session was ended or refreshed by
    /// somebody else meanwhile, or is another person's (OpenID Connect Core §12.2).
    pub async fn note_refresh(&self, refreshed: Refreshed<'_>, now: Timestamp) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "UPDATE sessions SET generation = $1, refreshed_at = $2, refreshed_from = $3, subject = $4, email = $5, \
                 name = $6, key_id = $7, answer = $8, expires_at = $9, claimed_until = $10 \
                 WHERE id = $11 AND ended_at IS NULL AND generation <= $12 AND subject IN ('', $4) RETURNING id",
                &[
                    number(refreshed.from_generation.saturating_add(1)),
                    time(now),
                    as_text(refreshed.from),
                    as_text(refreshed.subject),
                    as_text(refreshed.email.unwrap_or_default()),
                    as_text(refreshed.name.unwrap_or_default()),
                    as_text(refreshed.key_id),
                    as_text(refreshed.answer),
                    time(refreshed.expires_at),
                    Value::Integer(if refreshed.is_awaited { 0 } else { UNFETCHED }),
                    as_text(refreshed.id),
                    number(refreshed.from_generation),
                ],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Gives up the claim that ends at `until`: the refresh failed, and may be tried again.
    pub async fn release_refresh(&self, id: &str, until: Timestamp) -> Result<(), StoreError> {
        let statement = "UPDATE sessions SET claimed_until = 0 WHERE id = $1 AND claimed_until = $2";
        self.run(statement, &[as_text(id), time(until)]).await.map(drop)
    }

    /// Ends a session. `None` if there is none that could be ended.
    pub async fn end_session(&self, id: &str, now: Timestamp) -> Result<Option<EndedSession>, StoreError> {
        let rows = self
            .run(
                "UPDATE sessions SET ended_at = $1, answer = '' WHERE id = $2 AND ended_at IS NULL AND expires_at > $1 \
                 RETURNING id, subject",
                &[time(now), as_text(id)],
            )
            .await?;
        rows.into_iter().next().map(ended).transpose()
    }

    /// Ends every session of a person.
    pub async fn end_sessions_of(&self, subject: &str, now: Timestamp) -> Result<Vec<EndedSession>, StoreError> {
        let rows = self
            .run(
                "UPDATE sessions SET ended_at = $1, answer = '' WHERE subject = $2 AND ended_at IS NULL \
                 AND expires_at > $1 RETURNING id, subject",
                &[time(now), as_text(subject)],
            )
            .await?;
        rows.into_iter().map(ended).collect()
    }

    /// Ends every session whose newest token this key signed. Returns how many.
    pub async fn end_sessions_signed_by(&self, key_id: &str, now: Timestamp) -> Result<usize, StoreError> {
        let rows = self
            .run(
                "UPDATE sessions SET ended_at = $1, answer = '' WHERE key_id = $2 AND ended_at IS NULL \
                 AND expires_at > $1 RETURNING id",
                &[time(now), as_text(key_id)],
            )
            .await?;
        Ok(rows.len())
    }

    /// Sessions that are not over, in the order of their beginning. `None` if the page's session does not exist.
    pub async fn sessions(
        &self,
        query: SessionsQuery<'_>,
        now: Timestamp,
    ) -> Result<Option<Vec<SessionRow>>, StoreError> {
        let (comparison, order) = if matches!(query.edge, Edge::Before(_)) { ("<", "DESC") } else { (">", "ASC") };
        let from = match query.edge {
            Edge::First => (i64::MIN, String::new()),
            Edge::After(id) | Edge::Before(id) => match self.place_of_session(id).await? {
                Some(created_at) => (created_at, id.to_owned()),
                None => return Ok(None),
            },
        };
        let statement = format!(
            "SELECT {COLUMNS} FROM sessions WHERE ended_at IS NULL AND expires_at > $1 AND ($2 = '' OR subject = $2) \
             AND (created_at {comparison} $3 OR (created_at = $3 AND id {comparison} $4)) \
             ORDER BY created_at {order}, id {order} LIMIT $5"
        );
        let rows = self
            .run(
                &statement,
                &[
                    time(now),
                    as_text(query.subject.unwrap_or_default()),
                    Value::Integer(from.0),
                    as_text(from.1),
                    Value::Integer(query.most),
                ],
            )
            .await?;
        let mut sessions = rows.into_iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        if order == "DESC" {
            sessions.reverse();
        }
        Ok(Some(sessions))
    }

    /// A page goes on from a session also when that one has ended meanwhile.
    async fn place_of_session(&self, id: &str) -> Result<Option<i64>, StoreError> {
        let rows = self.run("SELECT created_at FROM sessions WHERE id = $1", &[as_text(id)]).await?;
        rows.first().map(|row| integer(row, 0, TABLE, "created_at")).transpose()
    }
}

fn ended(mut row: Row) -> Result<EndedSession, StoreError> {
    Ok(EndedSession { id: text(&mut row, 0, TABLE, "id")?, subject: text(&mut row, 1, TABLE, "subject")? })
}

fn listed(mut row: Row) -> Result<SessionRow, StoreError> {
    Ok(SessionRow {
        id: text(&mut row, 0, TABLE, "id")?,
        subject: text(&mut row, 1, TABLE, "subject")?,
        email: text(&mut row, 2, TABLE, "email")?,
        name: text(&mut row, 3, TABLE, "name")?,
        means: text(&mut row, 4, TABLE, "means")?,
        created_at: Timestamp::from_millis(integer(&row, 5, TABLE, "created_at")?),
        created_from: text(&mut row, 6, TABLE, "created_from")?,
        client: text(&mut row, 7, TABLE, "client")?,
        refreshed_at: Timestamp::from_millis(integer(&row, 8, TABLE, "refreshed_at")?),
        refreshed_from: text(&mut row, 9, TABLE, "refreshed_from")?,
        expires_at: Timestamp::from_millis(integer(&row, 10, TABLE, "expires_at")?),
    })
}

const fn time(at: Timestamp) -> Value {
    Value::Integer(at.as_millis())
}

/// A generation as it is stored.
fn number(generation: u64) -> Value {
    Value::Integer(i64::try_from(generation).unwrap_or(i64::MAX))
}
