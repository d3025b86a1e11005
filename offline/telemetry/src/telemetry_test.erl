%% For tests: each event is sent to a process as `{Event, Reference, Measurements, Metadata}'.
-module(telemetry_test).

-export([attach_event_handlers/2, handle_event/4]).

-spec attach_event_handlers(pid(), [telemetry:event_name()]) -> reference().
attach_event_handlers(Pid, Events) when is_pid(Pid), is_list(Events) ->
    Reference = make_ref(),
    ok = telemetry:attach_many(Reference, Events, fun ?MODULE:handle_event/4, {Pid, Reference}),
    Reference.

handle_event(Event, Measurements, Metadata, {Pid, Reference}) ->
    Pid ! {Event, Reference, Measurements, Metadata}.
