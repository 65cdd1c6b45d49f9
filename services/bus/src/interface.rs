//! One declaration per interface: from it come the trait that the service implements, the object
//! that zbus serves, and the proxy that callers use, so that both ends cannot disagree.

/// Declares a bus interface.
///
/// `Api` is the trait that a service implements, `Object` what zbus serves, `Proxy` what callers
/// hold. Every interface also has one signal, `Changed`: something behind its getters is different
/// now, read again. A signal without content cannot be stale and may be coalesced.
///
/// `control` names the methods that change or disclose what not every caller may: see
/// [`crate::server::Restrict`].
macro_rules! bus_interface {
    (
        $(#[$doc:meta])*
        interface $Object:ident($name:tt), trait $Api:ident, proxy $Proxy:ident
        $(, control [$($control:ident),*])? {
            $(
                $(#[$mdoc:meta])*
                fn $method:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;
            )*
        }
    ) => {
        $(#[$doc])*
        #[async_trait::async_trait]
        pub trait $Api: Send + Sync + 'static {
            $(
                $(#[$mdoc])*
                async fn $method(&self, $($arg: $ty),*) -> $crate::Result<bus_interface!(@ret $($ret)?)>;
            )*
        }

        /// The object that zbus serves for this interface; delegates to the service's
        #[doc = concat!("[`", stringify!($Api), "`].")]
        #[derive(Clone)]
        pub struct $Object(pub std::sync::Arc<dyn $Api>);

        #[zbus::interface(name = $name)]
        impl $Object {
            $(
                async fn $method(&self, $($arg: $ty),*) -> $crate::Result<bus_interface!(@ret $($ret)?)> {
                    self.0.$method($($arg),*).await
                }
            )*

            #[zbus(signal)]
            async fn changed(
                emitter: &zbus::object_server::SignalEmitter<'_>,
            ) -> zbus::Result<()>;
        }

        impl $crate::server::Restrict for $Object {
            fn restricted(&self) -> Self {
                const CONTROL: &[&str] = &[$($(stringify!($control)),*)?];

                struct Restricted(std::sync::Arc<dyn $Api>);

                #[async_trait::async_trait]
                impl $Api for Restricted {
                    $(
                        async fn $method(
                            &self,
                            $($arg: $ty),*
                        ) -> $crate::Result<bus_interface!(@ret $($ret)?)> {
                            if CONTROL.contains(&stringify!($method)) {
                                return Err($crate::Error::Denied(concat!(
                                    $name, ".", stringify!($method),
                                    " is not for this caller: only the console and the \
                                     configuration service may"
                                ).to_owned()));
                            }
                            self.0.$method($($arg),*).await
                        }
                    )*
                }

                Self(std::sync::Arc::new(Restricted(self.0.clone())))
            }
        }

        impl $crate::server::Signals for $Object {
            async fn emit_changed(connection: &zbus::Connection) -> zbus::Result<()> {
                let emitter =
                    zbus::object_server::SignalEmitter::new(connection, $crate::OBJECT_PATH)?;
                $Object::changed(&emitter).await
            }
        }

        $(#[$doc])*
        #[zbus::proxy(
            interface = $name,
            default_path = "/org/portcullis",
            default_service = "org.portcullis"
        )]
        pub trait $Proxy {
            $(
                $(#[$mdoc])*
                async fn $method(&self, $($arg: $ty),*) -> $crate::Result<bus_interface!(@ret $($ret)?)>;
            )*

            /// Something behind the getters changed.
            #[zbus(signal)]
            fn changed(&self) -> zbus::Result<()>;
        }
    };
    (@ret) => { () };
    (@ret $ret:ty) => { $ret };
}
pub(crate) use bus_interface;
