-- One row an account. All times are by the clock of this database.
-- Versions rise over all rows, also where a row goes and comes again.
CREATE SEQUENCE pleo_proxy.version;

CREATE TABLE pleo_proxy.account (
    environment text NOT NULL,
    account text NOT NULL,
    generation bigint,
    -- The sealed record; none: the account has no record, and the row holds its claim.
    record bytea,
    version bigint NOT NULL DEFAULT 0,
    -- The claim under which this version was written.
    written_by text NOT NULL DEFAULT '',
    -- The right to refresh or change the account, and whose it is.
    claim_id text,
    claim_by text,
    claim_until timestamptz,
    -- The refresh that was sent last and has no outcome yet, or whose outcome ended the grant.
    intent_id text,
    intent_at timestamptz,
    PRIMARY KEY (environment, account)
);

CREATE INDEX account_version ON pleo_proxy.account (environment, version);

-- Records that could not be read, which a login replaced.
CREATE TABLE pleo_proxy.set_aside (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    environment text NOT NULL,
    account text NOT NULL,
    at bigint NOT NULL,
    record bytea NOT NULL
);
