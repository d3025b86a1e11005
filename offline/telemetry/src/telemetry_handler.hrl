-record(handler, {
    event :: telemetry:event_name() | '_',
    id :: telemetry:handler_id() | '_',
    function :: telemetry:handler_function() | '_',
    config :: telemetry:handler_config() | '_'
}).
