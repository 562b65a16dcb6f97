-- Logins that were begun: one that begins on one replica ends on another.
CREATE TABLE pleo_proxy.login (
    environment text NOT NULL,
    -- SHA-256 of the state.
    id bytea NOT NULL,
    account text NOT NULL,
    -- Verifier, redirect URI and the rest, sealed.
    content bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    -- A callback came, to this replica.
    taken_by text,
    -- How it ended: empty if it succeeded, else why not.
    ended text,
    PRIMARY KEY (environment, id)
);

CREATE INDEX login_account ON pleo_proxy.login (environment, account);
