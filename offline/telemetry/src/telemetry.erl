%% The public functions of telemetry, see README.md. Handlers run in the process that executes the
%% event; one that fails is reported and detached, and the others still run.
-module(telemetry).

-export([attach/4, attach_many/4, detach/1, list_handlers/1, execute/2, execute/3, span/3]).

-export_type([
    handler_id/0,
    event_name/0,
    event_measurements/0,
    event_metadata/0,
    event_prefix/0,
    handler_config/0,
    handler_function/0,
    handler/0,
    span_result/0,
    span_function/0
]).

-include("telemetry_handler.hrl").
-include_lib("kernel/include/logger.hrl").

-type handler_id() :: term().
-type event_name() :: [atom(), ...].
-type event_measurements() :: map().
-type event_metadata() :: map().
-type event_prefix() :: [atom()].
-type handler_config() :: term().
-type handler_function() ::
    fun((event_name(), event_measurements(), event_metadata(), handler_config()) -> any()).
-type handler() :: #{
    id := handler_id(),
    event_name := event_name(),
    function := handler_function(),
    config := handler_config()
}.
-type span_result() :: term().
-type span_function() :: fun(
    () ->
        {span_result(), event_metadata()}
        | {span_result(), event_measurements(), event_metadata()}
).

-define(FAILURE, [telemetry, handler, failure]).

-spec attach(handler_id(), event_name(), handler_function(), handler_config()) ->
    ok | {error, already_exists}.
attach(Id, Event, Function, Config) ->
    attach_many(Id, [Event], Function, Config).

-spec attach_many(handler_id(), [event_name()], handler_function(), handler_config()) ->
    ok | {error, already_exists}.
attach_many(Id, Events, Function, Config) when is_list(Events), is_function(Function, 4) ->
    lists:foreach(fun assert_event_name/1, Events),
    hint_at_local_function(Id, Function),
    telemetry_handlers:insert(Id, Events, Function, Config).

-spec detach(handler_id()) -> ok | {error, not_found}.
detach(Id) ->
    telemetry_handlers:delete(Id).

%% The handlers of all events that start with the prefix; `[]' lists every handler.
-spec list_handlers(event_prefix()) -> [handler()].
list_handlers(Prefix) ->
    assert_atoms(Prefix),
    [
        #{id => Id, event_name => Event, function => Function, config => Config}
     || #handler{id = Id, event = Event, function = Function, config = Config} <-
            telemetry_handlers:for_prefix(Prefix)
    ].

-spec execute(event_name(), event_measurements() | number()) -> ok.
execute(Event, Measurements) ->
    execute(Event, Measurements, #{}).

-spec execute(event_name(), event_measurements() | number(), event_metadata()) -> ok.
execute(Event, Value, Metadata) when is_number(Value) ->
    execute(Event, #{value => Value}, Metadata);
execute([_ | _] = Event, Measurements, Metadata) when is_map(Measurements), is_map(Metadata) ->
    lists:foreach(
        fun(Handler) -> run(Handler, Event, Measurements, Metadata) end,
        handlers(Event)
    ).

%% Executes `Prefix ++ [start]', then the function, then `Prefix ++ [stop]' or, when the function
%% failed, `Prefix ++ [exception]'. One reference ties the events of a span together.
-spec span(event_prefix(), event_metadata(), span_function()) -> span_result().
span(Prefix, StartMetadata, Function) ->
    Start = erlang:monotonic_time(),
    Context = #{telemetry_span_context => make_ref()},
    execute(
        Prefix ++ [start],
        #{monotonic_time => Start, system_time => erlang:system_time()},
        maps:merge(Context, StartMetadata)
    ),
    try Function() of
        {Result, StopMetadata} ->
            execute(Prefix ++ [stop], elapsed(Start), maps:merge(Context, StopMetadata)),
            Result;
        {Result, Measurements, StopMetadata} ->
            execute(
                Prefix ++ [stop],
                maps:merge(Measurements, elapsed(Start)),
                maps:merge(Context, StopMetadata)
            ),
            Result
    catch
        Kind:Reason:Stacktrace ->
            Failure = #{kind => Kind, reason => Reason, stacktrace => Stacktrace},
            execute(
                Prefix ++ [exception],
                elapsed(Start),
                maps:merge(Context, maps:merge(StartMetadata, Failure))
            ),
            erlang:raise(Kind, Reason, Stacktrace)
    end.

elapsed(Start) ->
    Stop = erlang:monotonic_time(),
    #{monotonic_time => Stop, duration => Stop - Start}.

%% An event must not fail because telemetry is not running: it may be executed late in a shutdown.
handlers(Event) ->
    try
        telemetry_handlers:for_event(Event)
    catch
        error:badarg ->
            ?LOG_WARNING("No telemetry handlers found. Is the telemetry application started?"),
            []
    end.

run(#handler{id = Id, function = Function, config = Config}, Event, Measurements, Metadata) ->
    try
        Function(Event, Measurements, Metadata, Config)
    catch
        Kind:Reason:Stacktrace ->
            _ = detach(Id),
            ?LOG_ERROR(
                "Handler ~p has failed and has been detached. "
                "Class=~p~nReason=~p~nStacktrace=~p~n",
                [Id, Kind, Reason, Stacktrace]
            ),
            execute(
                ?FAILURE,
                #{monotonic_time => erlang:monotonic_time(), system_time => erlang:system_time()},
                #{
                    event_name => Event,
                    handler_id => Id,
                    handler_config => Config,
                    kind => Kind,
                    reason => Reason,
                    stacktrace => Stacktrace
                }
            )
    end.

assert_event_name([_ | _] = Event) -> assert_atoms(Event);
assert_event_name(Event) -> erlang:error(badarg, [Event]).

assert_atoms(List) ->
    case is_list(List) andalso lists:all(fun erlang:is_atom/1, List) of
        true -> ok;
        false -> erlang:error(badarg, [List])
    end.

%% As documented for attach/4: a function that is not a capture with a module costs more to call.
hint_at_local_function(Id, Function) ->
    case erlang:fun_info(Function, type) of
        {type, external} ->
            ok;
        {type, local} ->
            ?LOG_INFO(
                "The handler ~p is a local function (an anonymous one, or a capture without a "
                "module), which is slower to call than &Module.function/4.",
                [Id]
            )
    end.
