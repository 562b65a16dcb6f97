-- What a proxy needs, and no more: it creates and drops nothing.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pleo_proxy') THEN
        CREATE ROLE pleo_proxy LOGIN;
    END IF;
END $$;
GRANT USAGE ON SCHEMA pleo_proxy TO pleo_proxy;
GRANT SELECT ON pleo_proxy.migration TO pleo_proxy;
GRANT USAGE ON SEQUENCE pleo_proxy.version TO pleo_proxy;
GRANT SELECT, INSERT, UPDATE ON pleo_proxy.account TO pleo_proxy;
GRANT SELECT, INSERT ON pleo_proxy.set_aside TO pleo_proxy;
GRANT SELECT, INSERT, UPDATE, DELETE ON pleo_proxy.login TO pleo_proxy;
-- Then, in psql: \password pleo_proxy
